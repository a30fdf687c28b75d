//! What the programs consist of, as CycloneDX: one file for each program that is delivered.

use std::path::PathBuf;

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::run as run_cargo;
use crate::process::unless_interrupted;
use crate::tools::Tool;
use crate::workspace::{private_folder, remove, root, target, write_private};

const CARGO_CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9" };

/// What is delivered, by the folder of its crate. The stand-ins for development are not.
const PROGRAMS: [(&str, &str); 4] = [
    ("cli", "persona"),
    ("edge", "edge"),
    ("identity-svc", "identity-svc"),
    ("subscription-svc", "subscription-svc"),
];

/// What the files are called until they are where they belong.
const DRAFT: &str = "sbom-draft";

/// `cargo xtask sbom`
pub async fn run() -> Outcome {
    unless_interrupted(write()).await
}

async fn write() -> Outcome {
    let cyclonedx = CARGO_CYCLONEDX.ensure().await?;
    let folder = target("sbom");
    private_folder(&folder)?;
    let mut command = Command::new(&cyclonedx);
    // Each crate of the workspace gets a file beside its manifest; the tool cannot be told otherwise.
    command.args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"]);
    run_cargo(command.args(["--override-filename", DRAFT]).current_dir(root())).await?;
    for crate_folder in crates()? {
        let draft = crate_folder.join(DRAFT).with_added_extension("json");
        let name = crate_folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((_, program)) = PROGRAMS.iter().find(|(folder, _)| *folder == name) {
            let kept = folder.join(program).with_added_extension("cdx.json");
            let bill = std::fs::read_to_string(&draft).map_err(|e| format!("{}: {e}", draft.display()))?;
            // Where it was made is nobody's business, and would differ from one machine to the next.
            write_private(&kept, &bill.replace(&root().display().to_string(), ""))?;
            println!("{}", kept.display());
        }
        remove(&draft)?;
    }
    Ok(())
}

/// The folders of the workspace's crates.
fn crates() -> Outcome<Vec<PathBuf>> {
    let folders = std::fs::read_dir(root())?.map(|entry| Ok(entry?.path())).collect::<Outcome<Vec<_>>>()?;
    Ok(folders.into_iter().filter(|folder| folder.join("Cargo.toml").is_file()).collect())
}
