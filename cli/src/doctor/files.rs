//! Whether files with secrets are closed to others.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use chassis::settings::{Origin, Value};

use crate::deployment::Member;
use crate::report::Check;

const SUBJECT: &str = "files";
/// What others than the owner and the group may.
const OTHERS: u32 = 0o007;

pub fn checks(members: &[Member]) -> Vec<Check> {
    let files = secret_files(members);
    let mut checks = Vec::new();
    let mut closed = 0;
    for (path, what) in &files {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.permissions().mode() & OTHERS == 0 => closed += 1,
            Ok(_) => checks.push(Check::warning(
                SUBJECT,
                format!("{} ({what}) is open to everybody on this machine", path.display()),
                format!("chmod o= {}", path.display()),
            )),
            // A file that cannot be read is a fault of the settings.
            Err(_) => {}
        }
    }
    if closed > 0 && checks.is_empty() {
        checks.push(Check::ok(SUBJECT, format!("{closed} with secrets, closed to others")));
    }
    checks
}

fn secret_files(members: &[Member]) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for member in members {
        let secrets =
            member.survey.settings.iter().filter(|setting| matches!(setting.value, Value::Secret(_)));
        for setting in secrets {
            match &setting.origin {
                Origin::File(path) => {
                    files.insert(path.clone(), format!("{}_FILE", setting.name));
                }
                Origin::Given => {
                    files.extend(
                        member.files.iter().map(|path| (path.clone(), "settings with secrets".to_owned())),
                    );
                }
                Origin::Default => {}
            }
        }
    }
    files
}
