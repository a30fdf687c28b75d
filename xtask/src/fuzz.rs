//! `cargo xtask fuzz`: the fuzz targets, which are tests, searched by libFuzzer for as long as one likes. Stable Rust is
//! enough: LLVM marks which code an input reaches, and a linker and a C++ compiler are what else is needed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, check};
use crate::process::{Process, unless_interrupted};
use crate::workspace::{private_folder, root, target};

#[derive(clap::Args)]
pub struct Options {
    /// Only these targets; all by default
    targets: Vec<String>,
    /// How long each target is searched
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Say which targets there are
    #[arg(long)]
    list: bool,
}

impl Options {
    /// Whether there are all targets that were named.
    pub fn are_known(&self) -> bool {
        chosen(&self.targets).is_ok()
    }
}

/// A target: a test that calls `fuzzing::check`.
struct Target {
    name: &'static str,
    package: &'static str,
    /// Where its inputs are kept.
    inputs: &'static str,
    test: &'static str,
}

const TARGETS: [Target; 8] = [
    Target {
        name: "token",
        package: "contract",
        inputs: "proto/fuzz/token",
        test: "token::tests::whatever_is_accepted_is_a_token_of_the_signer_bit_by_bit",
    },
    Target {
        name: "path",
        package: "edge",
        inputs: "edge/fuzz/path",
        test: "fuzz::a_path_that_is_admitted_has_one_reading_and_one_route",
    },
    Target {
        name: "headers",
        package: "edge",
        inputs: "edge/fuzz/headers",
        test: "fuzz::whatever_headers_a_client_sends_ours_alone_say_who_it_is",
    },
    Target {
        name: "envelope",
        package: "edge",
        inputs: "edge/fuzz/envelope",
        test: "ws::envelope::tests::whatever_is_passed_on_is_read_alike_by_all_readers",
    },
    Target {
        name: "settings",
        package: "edge",
        inputs: "edge/fuzz/settings",
        test: "fuzz::any_environment_is_settings_or_faults_that_name_variables_and_show_no_secret",
    },
    Target {
        name: "settings-identity",
        package: "identity-svc",
        inputs: "identity-svc/fuzz/settings",
        test: "settings::tests::any_environment_is_settings_or_faults_that_show_no_secret",
    },
    Target {
        name: "email",
        package: "identity-svc",
        inputs: "identity-svc/fuzz/email",
        test: "email::tests::every_spelling_of_whatever_is_taken_for_an_address_is_one",
    },
    Target {
        name: "signature",
        package: "subscription-svc",
        inputs: "subscription-svc/fuzz/signature",
        test: "billing::signature::tests::whatever_the_header_only_the_right_signature_of_these_minutes_passes",
    },
];

/// What makes LLVM mark the code that runs and the values that are compared, and the crate `fuzzing` call libFuzzer.
const FLAGS: &str = "--cfg coverage_guided -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Cdebug-assertions";
/// The longest input, in bytes.
const LONGEST: usize = 4096;

/// `cargo xtask fuzz`
pub async fn run(options: Options) -> Outcome {
    let chosen = chosen(&options.targets)?;
    if options.list {
        chosen.iter().for_each(|target| println!("{}: {}", target.name, target.test));
        return Ok(());
    }
    let time = Duration::from_secs(60 * options.minutes);
    for target in chosen {
        let program = unless_interrupted(build(target.package)).await?;
        println!("{}: {} minutes", target.name, options.minutes);
        unless_interrupted(search(target, program, time)).await?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Outcome<Vec<&'static Target>> {
    if let Some(unknown) = names.iter().find(|name| !TARGETS.iter().any(|target| target.name == **name)) {
        return Err(format!("there is no target {unknown}: `cargo xtask fuzz --list`").into());
    }
    let is_chosen = |target: &&Target| names.is_empty() || names.iter().any(|name| name == target.name);
    Ok(TARGETS.iter().filter(is_chosen).collect())
}

/// The tests of a package as a program, with everything that they are linked with watched, too.
async fn build(package: &str) -> Outcome<PathBuf> {
    let mut command = cargo(&["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    // With a target named, what is built for the build itself goes without these flags.
    command.args(["--package", package, "--target", &host().await?, "--target-dir"]).arg(target("fuzz"));
    command.env("RUSTFLAGS", FLAGS).env("CARGO_PROFILE_DEV_OPT_LEVEL", "2").env("CARGO_INCREMENTAL", "0");
    let built = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    check(&command, built.status)?;
    let told = String::from_utf8(built.stdout)?;
    let mut programs = told.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let kind = message["target"]["kind"][0].as_str()?;
        // The library has the tests where there is one.
        (message["profile"]["test"] == true && matches!(kind, "lib" | "bin"))
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    programs.next_back().ok_or_else(|| format!("{package} has no tests").into())
}

async fn host() -> Outcome<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).args(["--print", "host-tuple"]).kill_on_drop(true).output().await?;
    Ok(String::from_utf8(told.stdout)?.trim().to_owned())
}

/// Searches until the time is over or an input breaks the property. What reaches new code is kept for the next time.
async fn search(fuzzed: &Target, program: PathBuf, time: Duration) -> Outcome {
    let (found, broken) = (target("fuzz/inputs").join(fuzzed.name), target("fuzz/broken"));
    private_folder(&found)?;
    private_folder(&broken)?;
    let arguments = [
        found.display().to_string(),
        root().join(fuzzed.inputs).display().to_string(),
        format!("-max_total_time={}", time.as_secs()),
        format!("-max_len={LONGEST}"),
        format!("-artifact_prefix={}/{}-", broken.display(), fuzzed.name),
        "-print_final_stats=1".to_owned(),
    ];
    let mut command = Command::new(program);
    command.args(["--exact", "--nocapture", fuzzed.test]).env("FUZZ_ARGUMENTS", arguments.join("\n"));
    let status = Process::start(fuzzed.name, &mut command)?.wait().await?;
    if status.success() {
        return Ok(());
    }
    let (name, broken) = (fuzzed.name, broken.display());
    Err(format!("{name} found something: the input is in {broken} and belongs into {}", fuzzed.inputs).into())
}
