//! Whether `docs/security.md` tells the truth: each row of the hardening requirements stands there, and each test that it
//! names exists.

use std::collections::BTreeSet;
use std::path::Path;

use crate::Outcome;
use crate::workspace::root;

/// The rows by their letter and how many there are of it.
const ROWS: [(char, u32); 12] = [
    ('P', 9),
    ('T', 9),
    ('R', 5),
    ('G', 8),
    ('H', 8),
    ('W', 5),
    ('I', 3),
    ('D', 7),
    ('Q', 5),
    ('M', 3),
    ('L', 3),
    ('V', 6),
];

/// Compares the page with the code.
///
/// # Errors
/// All rows and tests that are missing.
pub fn check() -> Outcome {
    let path = root().join("docs/security.md");
    let page = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut tests = Tests::default();
    tests.read(root())?;
    let faults = faults(&page, &tests);
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("docs/security.md:\n  {}", faults.join("\n  ")).into())
    }
}

fn faults(page: &str, tests: &Tests) -> Vec<String> {
    let rows: Vec<(&str, &str)> = page.lines().filter_map(cells).collect();
    let told: BTreeSet<String> = rows.iter().flat_map(|(row, _)| names_of(row)).collect();
    let all = ROWS.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")));
    let untold = all.filter(|row| !told.contains(row)).map(|row| format!("no row for {row}"));
    let unkept = rows.iter().flat_map(|(row, shown)| {
        let named: Vec<&str> = quoted(shown).collect();
        let nothing =
            (named.is_empty() && !shown.contains("does not apply")).then(|| format!("{row:?} names no test"));
        let missing = named.into_iter().filter(|name| !tests.have(name));
        nothing.into_iter().chain(missing.map(move |name| format!("{row:?}: there is no {name:?}")))
    });
    untold.chain(unkept).collect()
}

/// The two cells of a line of the table.
fn cells(line: &str) -> Option<(&str, &str)> {
    let (row, shown) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
    (row != "row").then_some((row, shown))
}

/// The requirements that a row begins with: `P2, P4 length` has two.
fn names_of(row: &str) -> Vec<String> {
    let is_name = |word: &&str| {
        let (letter, number) = word.split_at_checked(1).unwrap_or_default();
        letter.bytes().all(|byte| byte.is_ascii_uppercase()) && number.parse::<u32>().is_ok()
    };
    let words = row.split([' ', ',', '(', ')']).filter(|word| !word.is_empty());
    words.filter(is_name).map(str::to_owned).collect()
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tests of the workspace, and the modules that have some.
#[derive(Default)]
struct Tests {
    names: BTreeSet<String>,
    modules: BTreeSet<String>,
}

impl Tests {
    fn read(&mut self, folder: &Path) -> Outcome {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && !["target", "node_modules"].contains(&name) && !name.starts_with('.') {
                self.read(&path)?;
            } else if name.ends_with(".rs") {
                self.take(&path, &std::fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, code: &str) {
        let mut is_test = false;
        let before = self.names.len();
        for line in code.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]")
                    || line.starts_with("#[tokio::test")
                    || line.starts_with("#[sqlx::test");
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                let end = rest.find(['(', '<']).unwrap_or(rest.len());
                self.names.insert(rest[..end].to_owned());
                is_test = false;
            } else if !line.starts_with("//") {
                is_test = false;
            }
        }
        if self.names.len() > before {
            // Of a folder each file may be meant by its name or the folder's.
            let steps = path.with_extension("");
            let steps = steps.iter().rev().take(3).filter_map(|step| step.to_str());
            self.modules.extend(steps.map(str::to_owned));
        }
    }

    /// Whether there is what a row names: a test, perhaps shortened with `…` or behind its module; all tests of a
    /// module (`module::*`); a file; or a command.
    fn have(&self, name: &str) -> bool {
        if let Some(task) = name.strip_prefix("cargo ") {
            return crate::understands(task);
        }
        if let Some(file) = name.split(':').next().filter(|file| file.ends_with(".rs")) {
            return ["", "edge/src/"].iter().any(|folder| root().join(folder).join(file).exists());
        }
        let last = name.rsplit("::").next().unwrap_or(name);
        let module =
            name.strip_suffix("::*").map(|module| module.rsplit([':', ' ']).next().unwrap_or(module));
        if let Some(module) = module {
            return self.modules.contains(module);
        }
        match (last.strip_prefix('…'), last.strip_suffix('…')) {
            (Some(end), _) => self.names.iter().any(|test| test.ends_with(end)),
            (_, Some(begin)) => self.names.iter().any(|test| test.starts_with(begin)),
            _ => self.names.contains(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_promises_is_kept() {
        check().expect("docs/security.md");
    }

    #[test]
    fn a_command_is_one_only_with_a_task_and_names_that_there_are() {
        let tests = Tests::default();
        for kept in
            ["deny", "faults", "faults edge-killed database-frozen", "bench --only fan-out", "fuzz token"]
        {
            assert!(tests.have(&format!("cargo xtask {kept}")), "{kept}");
        }
        for wrong in ["", "denied", "faults edge-kiled", "bench --only fan", "fuzz tokens", "deny --more"] {
            assert!(!tests.have(&format!("cargo xtask {wrong}")), "{wrong}");
        }
    }

    #[test]
    fn a_missing_row_and_a_missing_test_are_found() {
        let mut tests = Tests::default();
        let code =
            "#[test]\nfn it_is_kept() {}\n#[tokio::test]\n// why\nasync fn so_is_it() {}\nfn it_is_none() {}";
        tests.take(Path::new("a/rules.rs"), code);
        let page = "| row | test |\n|---|---|\n| P1, V6 x | `rules::it_is_kept`, `so_…`, `…is_it` |\n\
                    | P2 | `it_is_none` |\n| P3 | `rules::*`, `others::*` |\n| P4 | soon |\n| P5 | does not apply: x |\n";
        let faults = faults(page, &tests);
        let has = |fault: &str| faults.iter().any(|found| found.contains(fault));
        assert!(has("\"it_is_none\"") && has("\"others::*\"") && has("\"P4\" names no test"), "{faults:?}");
        assert!(has("no row for T1") && !has("no row for P1") && !has("no row for V6"), "{faults:?}");
        assert!(!has("it_is_kept") && !has("so_") && !has("rules::*") && !has("\"P5\""), "{faults:?}");
    }
}
