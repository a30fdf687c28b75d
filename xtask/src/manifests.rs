//! Whether the manifests under `deploy/kubernetes` can be rendered, and are what Kubernetes takes. What in them has to fit
//! the processes is a test (`tests/tests/deploy`), which needs none of this.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Outcome;
use crate::packages::which;
use crate::process::unless_interrupted;
use crate::tools::python_tool;
use crate::workspace::target;

/// The validator, whose version is that of the Kubernetes whose schemas it carries.
const VALIDATOR: &str = "kubernetes-validate";
const KUBERNETES: &str = "1.37.0";

/// Kinds of cert-manager, which has no schema there.
const FOREIGN: &str = "cert-manager.io/v1";

/// What is rendered: a name, and a folder of `deploy/kubernetes`, with a component of it.
const RENDERED: [(&str, &str, Option<&str>); 3] = [
    ("development", "overlays/development", None),
    ("production", "overlays/production", None),
    ("mutual-tls", "overlays/production", Some("components/mutual-tls")),
];

/// `cargo xtask manifests`
pub async fn run() -> Outcome {
    unless_interrupted(check()).await
}

async fn check() -> Outcome {
    let validator = python_tool(VALIDATOR, KUBERNETES).await?;
    for (name, overlay, component) in RENDERED {
        let manifests = render(name, overlay, component).await?;
        validate(&validator, &manifests).await?;
        println!("{name}: {}", manifests.display());
    }
    Ok(())
}

async fn render(name: &str, overlay: &str, component: Option<&str>) -> Outcome<PathBuf> {
    let folder = target("manifests").join(name);
    std::fs::create_dir_all(&folder)?;
    // From a folder of its own, so that the component is added as an operator would.
    let from_here = |part: &str| format!("[../../../deploy/kubernetes/{part}]");
    let components = component.map(|part| format!("components: {}\n", from_here(part))).unwrap_or_default();
    std::fs::write(
        folder.join("kustomization.yaml"),
        format!("resources: {}\n{components}", from_here(overlay)),
    )?;
    let mut command = renderer()?;
    let output = command.arg(&folder).kill_on_drop(true).output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{overlay} cannot be rendered (kustomize 5 or later is needed): {said}").into());
    }
    let manifests = target("manifests").join(format!("{name}.yaml"));
    std::fs::write(&manifests, output.stdout)?;
    Ok(manifests)
}

fn renderer() -> Outcome<Command> {
    if let Some(kubectl) = which("kubectl") {
        let mut command = Command::new(kubectl);
        command.arg("kustomize");
        return Ok(command);
    }
    let kustomize = which("kustomize")
        .ok_or("neither kubectl (1.27 or later) nor kustomize (5 or later) is installed")?;
    let mut command = Command::new(kustomize);
    command.arg("build");
    Ok(command)
}

/// Strict: a field that Kubernetes does not know is a fault.
async fn validate(validator: &Path, manifests: &Path) -> Outcome {
    let output = Command::new(validator).arg("--strict").arg(manifests).kill_on_drop(true).output().await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains(" passed for resource ") && !line.contains(FOREIGN) && !line.is_empty())
        .collect();
    if output.status.success() && faults.is_empty() && passed > 0 {
        return Ok(());
    }
    Err(format!("{}: {passed} are as they should be, but\n{}", manifests.display(), faults.join("\n")).into())
}
