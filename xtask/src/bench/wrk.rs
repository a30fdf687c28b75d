//! Load on a proxy with wrk: as many requests as one core can make, on connections that stay open.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::stage::folder;
use crate::Outcome;
use crate::workspace::write_private;

/// What is sent.
#[derive(Clone)]
pub struct Load {
    pub method: &'static str,
    pub path: &'static str,
    /// The tokens, one a line, taken in turn.
    pub tokens: PathBuf,
    /// Each token once; the run ends with the last.
    pub once: bool,
    pub body_bytes: usize,
    pub connections: usize,
    pub seconds: u64,
    /// Whether every answer is to be an error.
    pub refused: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub requests: f64,
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Everything is made ready before the first request, so that the generator is as fast as it can be.
const SCRIPT: &str = r#"
local requests, next_one, once = {}, 0, false

function init(args)
  local method, path, length = args[2], args[3], tonumber(args[4])
  once = args[5] == "once"
  local body = length > 0 and string.rep("x", length) or nil
  for token in io.lines(args[1]) do
    local headers = { ["Authorization"] = "Bearer " .. token, ["Host"] = "api.example.com" }
    if body then headers["Content-Type"] = "application/octet-stream" end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end

function request()
  next_one = next_one + 1
  if next_one > #requests then
    if once then wrk.thread:stop() end
    next_one = 1
  end
  return requests[next_one]
end

function done(summary, latency)
  local e = summary.errors
  print(string.format("counted %d %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout, e.status))
end
"#;

impl Load {
    /// Sends it for its time, or until the tokens are used up.
    ///
    /// # Errors
    /// When wrk fails, connections break or answers are not what they should be.
    pub async fn run(&self, authority: &str) -> Outcome<Counted> {
        let script = folder().join("wrk.lua");
        write_private(&script, SCRIPT)?;
        let mut command = Command::new("wrk");
        command.args(["--threads", "1", "--timeout", "10s"]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--duration", &format!("{}s", self.seconds)]);
        command.arg("--script").arg(&script).arg(format!("http://{authority}{}", self.path));
        command.arg("--").arg(&self.tokens).args([self.method, self.path, &self.body_bytes.to_string()]);
        command.arg(if self.once { "once" } else { "again" });
        let output = command.kill_on_drop(true).output().await.map_err(|e| format!("wrk: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let counted = parse(&said, self.refused);
        counted.ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{} {} at {authority}: wrk says:\n{said}{errors}", self.method, self.path).into()
        })
    }

    /// The same for half a second, so that connections are open and caches warm.
    pub async fn warm(&self, authority: &str) -> Outcome {
        Load { seconds: 1, ..self.clone() }.run(authority).await.map(drop)
    }

    pub fn with_tokens(&self, tokens: &Path) -> Load {
        Load { tokens: tokens.to_owned(), ..self.clone() }
    }
}

/// `None` when something went wrong on the way.
fn parse(said: &str, refused: bool) -> Option<Counted> {
    let line = said.lines().find_map(|line| line.strip_prefix("counted "))?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [requests, duration, p50, p99, broken, errors] = numbers[..] else { return None };
    let as_wanted = if refused { errors == requests } else { errors == 0.0 };
    (requests > 0.0 && broken == 0.0 && as_wanted).then_some(Counted {
        requests,
        seconds: duration / 1e6,
        p50_ms: p50 / 1e3,
        p99_ms: p99 / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_only_when_every_answer_was_what_it_should_be() {
        let counted = parse("Running …\ncounted 1000 2000000 1500 4000 0 0\n", false).expect("counted");
        assert_eq!(
            (counted.requests, counted.seconds, counted.p50_ms, counted.p99_ms),
            (1000.0, 2.0, 1.5, 4.0)
        );
        assert!(parse("counted 1000 2000000 1500 4000 0 1000", true).is_some());
        for wrong in [
            "",
            "counted 1000 2000000 1500 4000 0 1",
            "counted 1000 2000000 1500 4000 1 0",
            "counted 0 1 0 0 0 0",
        ] {
            assert!(parse(wrong, false).is_none(), "{wrong}");
        }
        assert!(parse("counted 1000 2000000 1500 4000 0 999", true).is_none());
    }
}
