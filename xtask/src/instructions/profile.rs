//! Which functions of ours the instructions of a count went to.

use std::collections::HashMap;

use tokio::process::Command;

use super::callgrind::Dump;
use crate::Outcome;

/// Below this share of all instructions, in percent, a function is not shown.
const LEAST: f64 = 1.0;
/// What the names of our functions begin with.
const OURS: [&str; 3] = ["edge::", "chassis::", "contract::"];

/// Prints the shares of our functions, with all that they call, and then of all functions by themselves.
pub async fn print(dump: &Dump) -> Outcome {
    // What was inlined from another file makes a line of its own: with all that is called the first holds the rest.
    println!("  with all that they call:");
    for (function, percent) in shares(&annotate(dump, "yes").await?, f64::max) {
        if OURS.iter().any(|name| function.contains(name)) {
            println!("  {percent:>5.1} %  {function}");
        }
    }
    println!("  by themselves:");
    for (function, percent) in shares(&annotate(dump, "no").await?, |a, b| a + b) {
        println!("  {percent:>5.1} %  {function}");
    }
    Ok(())
}

async fn annotate(dump: &Dump, inclusive: &str) -> Outcome<String> {
    let mut command = Command::new("callgrind_annotate");
    command.arg(format!("--inclusive={inclusive}")).args(["--threshold=100", "--auto=no"]).arg(&dump.0);
    let output = command.kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(format!("callgrind_annotate: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The lines `12,345 (6.78%)  file:function [program]`, as functions with their percent, the highest first.
fn shares(annotated: &str, unite: impl Fn(f64, f64) -> f64) -> Vec<(&str, f64)> {
    let share = |line| -> Option<(&str, f64)> {
        let (_, rest): (&str, &str) = str::split_once(line, '(')?;
        let (percent, rest) = rest.split_once("%)")?;
        let function = rest.rsplit_once(" [").map_or(rest, |(function, _)| function);
        let function = function.split_once(':').map_or(function, |(_, function)| function);
        Some((function.trim(), percent.trim().parse().ok()?))
    };
    let mut shares: HashMap<&str, f64> = HashMap::new();
    for (function, percent) in annotated.lines().filter_map(share) {
        shares.entry(function).and_modify(|known| *known = unite(*known, percent)).or_insert(percent);
    }
    let mut shares: Vec<_> = shares.into_iter().filter(|(_, percent)| *percent >= LEAST).collect();
    shares.sort_by(|(a_name, a), (b_name, b)| b.total_cmp(a).then(a_name.cmp(b_name)));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOTATED: &str = "Ir\n\n100 (100.0%)  PROGRAM TOTALS\n\n 61 (61.00%)  src/a.rs:edge::a::{{closure}} [/x/edge]\n \
                             7 ( 7.00%)  lib/b.rs:edge::a::{{closure}} [/x/edge]\n 0 ( 0.50%)  ???:malloc [/lib/c]\n";

    #[test]
    fn functions_are_read_with_their_shares() {
        let sums = shares(ANNOTATED, |a, b| a + b);
        assert_eq!(sums, [("PROGRAM TOTALS", 100.0), ("edge::a::{{closure}}", 68.0)]);
        let most = shares(ANNOTATED, f64::max);
        assert_eq!(most, [("PROGRAM TOTALS", 100.0), ("edge::a::{{closure}}", 61.0)]);
    }
}
