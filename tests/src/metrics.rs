//! What processes export for Prometheus, and what docs/metrics.md says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A metric as docs/metrics.md has it.
#[derive(Clone, Debug)]
pub struct Documented {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub labels: BTreeSet<String>,
    /// When a process exports it: `always`, or what has to be.
    pub exported: String,
}

/// The rows of docs/metrics.md.
pub fn documented_metrics() -> Vec<Documented> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, kind, labels, _unit, _meaning, exported] = cells[..] else {
            panic!("a row of {} has not six cells: {line}", path.display());
        };
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let name = name.trim_end_matches('`').to_owned();
        Some(Documented { name, kind: kind.to_owned(), labels, exported: exported.to_owned() })
    };
    page.lines().filter_map(row).collect()
}

/// What a process exports: kind and labels by name.
#[derive(Default)]
pub struct Exported(pub BTreeMap<String, (String, BTreeSet<String>)>);

impl Exported {
    /// Adds what a process exports, in Prometheus' text format.
    pub fn take(&mut self, text: &str) {
        let mut current = String::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                current = name.to_owned();
                self.0.entry(current.clone()).or_insert_with(|| (kind.to_owned(), BTreeSet::new()));
            } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
                let (labels, _) = rest.rsplit_once('}').expect("labels");
                let outside: String = labels.split('"').step_by(2).collect();
                let names = outside.split([',', '=']).filter(|name| !name.is_empty() && *name != "le");
                let known = &mut self.0.get_mut(&current).expect("a type comes first").1;
                known.extend(names.map(str::to_owned));
            }
        }
    }
}
