//! The switches that make the stand-in misbehave: by headers of a request, `X-Stub-Delay-Ms: 50`, or for many requests
//! by `POST /stub/behaviour {"delay_ms": 50}`. Both spellings go through [`Behaviour::set`], so both know the same.

use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::app::lock;
use crate::garbage::Garbage;
use crate::recorder::text;

/// What is to be done with a request instead of, or besides, answering it as usual.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Waits before anything else.
    pub delay: Option<Duration>,
    /// Resets the TCP connection without an answer.
    pub reset: bool,
    /// Never answers.
    pub hang: bool,
    /// Answers with this status, by itself or on one of the answers below.
    pub status: Option<StatusCode>,
    /// Declares more than it sends.
    pub truncate: bool,
    /// 302 to this place.
    pub redirect: Option<HeaderValue>,
    /// Streams so many bytes.
    pub stream_bytes: Option<u64>,
    /// Streams ten chunks with this pause between them.
    pub slow_body: Option<Duration>,
    /// Answers with what was received.
    pub echo: bool,
    /// The echo counts the body and does not keep it.
    pub discard_body: bool,
    /// Says what is no answer.
    pub garbage: Option<Garbage>,
    /// Headers taken away from whatever is answered, before others are added.
    pub dropped_headers: Vec<HeaderName>,
    /// Headers added to whatever is answered.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
}

impl Behaviour {
    /// Lays the `X-Stub-*` headers of a request over what is set already. A switch that does not exist is a fault: a
    /// test with a misspelt one must not pass.
    pub fn read_headers(&mut self, headers: &HeaderMap) -> Result<(), String> {
        for (name, value) in headers {
            if let Some(switch) = name.as_str().strip_prefix("x-stub-") {
                self.set(switch, &text(value))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, switch: &str, value: &str) -> Result<(), String> {
        match switch {
            "delay-ms" => self.delay = Some(millis(switch, value)?),
            "reset" => self.reset = flag(switch, value)?,
            "hang" => self.hang = flag(switch, value)?,
            "status" => self.status = Some(parsed(switch, value)?),
            "truncate" => self.truncate = flag(switch, value)?,
            "redirect" => self.redirect = Some(parsed(switch, value)?),
            "stream-bytes" => self.stream_bytes = Some(parsed(switch, value)?),
            "slow-body-ms" => self.slow_body = Some(millis(switch, value)?),
            "echo" => self.echo = flag(switch, value)?,
            "discard-body" => self.discard_body = flag(switch, value)?,
            "garbage" => self.garbage = Some(parsed(switch, value)?),
            "drop-header" => self.dropped_headers.push(parsed(switch, value)?),
            "response-header" => self.response_headers.push(header(switch, value)?),
            _ => return Err(format!("there is no switch {switch}")),
        }
        Ok(())
    }
}

fn parsed<T: FromStr>(switch: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{switch} cannot be {value:?}"))
}

fn millis(switch: &str, value: &str) -> Result<Duration, String> {
    parsed(switch, value).map(Duration::from_millis)
}

fn flag(switch: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("{switch} is 1 or 0, not {value:?}")),
    }
}

fn header(switch: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) =
        value.split_once('=').ok_or_else(|| format!("{switch} is name=value, not {value:?}"))?;
    Ok((parsed(switch, name)?, parsed(switch, value)?))
}

/// A behaviour for all requests whose raw path begins with a prefix.
pub struct Rule {
    path_prefix: String,
    /// How many requests it is still for; without it, all.
    times: Option<u64>,
    behaviour: Behaviour,
}

impl Rule {
    /// From `{"path_prefix"?, "times"?, <switch>: <value>, …}`, the switches in snake case.
    pub fn from_json(mut wanted: Map<String, Value>) -> Result<Self, String> {
        let mut rule = Rule {
            path_prefix: wanted.remove("path_prefix").map_or(Ok(String::new()), prefix)?,
            times: wanted.remove("times").map(times).transpose()?,
            behaviour: Behaviour::default(),
        };
        for (name, value) in wanted {
            let switch = name.replace('_', "-");
            for value in spelt(&value)? {
                rule.behaviour.set(&switch, &value)?;
            }
        }
        Ok(rule)
    }
}

fn prefix(value: Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("path_prefix is a string, not {value}"))
}

fn times(value: Value) -> Result<u64, String> {
    value.as_u64().filter(|times| *times > 0).ok_or_else(|| format!("times is a number from 1, not {value}"))
}

/// A JSON value as a header would spell it; each of a list by itself.
fn spelt(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Bool(_) | Value::Number(_) => Ok(vec![value.to_string()]),
        Value::Array(values) => values.iter().map(spelt).collect::<Result<Vec<_>, _>>().map(|v| v.concat()),
        Value::Null | Value::Object(_) => Err(format!("no switch can be {value}")),
    }
}

/// The rules in force, at most one a prefix.
#[derive(Default)]
pub struct Switchboard(Mutex<Vec<Rule>>);

impl Switchboard {
    /// Puts a rule in the place of the one with the same prefix.
    pub fn set(&self, rule: Rule) {
        let mut rules = lock(&self.0);
        rules.retain(|other| other.path_prefix != rule.path_prefix);
        rules.push(rule);
    }

    /// Takes away the rule of one prefix, or all rules.
    pub fn clear(&self, path_prefix: Option<&str>) {
        lock(&self.0).retain(|rule| path_prefix.is_some_and(|prefix| rule.path_prefix != prefix));
    }

    /// The behaviour of the longest prefix that fits. It counts as used once.
    pub fn take(&self, path: &str) -> Behaviour {
        let mut rules = lock(&self.0);
        let fitting = rules.iter_mut().filter(|rule| path.starts_with(&rule.path_prefix));
        let Some(rule) = fitting.max_by_key(|rule| rule.path_prefix.len()) else {
            return Behaviour::default();
        };
        let behaviour = rule.behaviour.clone();
        rule.times = rule.times.map(|times| times - 1);
        rules.retain(|rule| rule.times != Some(0));
        behaviour
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(wanted: Value) -> Result<Rule, String> {
        Rule::from_json(wanted.as_object().unwrap().clone())
    }

    #[test]
    fn a_misspelt_switch_is_a_fault() {
        let mut headers = HeaderMap::new();
        headers.insert("x-stub-dealy-ms", HeaderValue::from_static("5"));
        assert!(Behaviour::default().read_headers(&headers).is_err());
        assert!(rule(json!({ "dealy_ms": 5 })).is_err());
        assert!(rule(json!({ "delay_ms": "soon" })).is_err());
    }

    #[test]
    fn the_longest_prefix_wins_as_often_as_it_was_told() {
        let board = Switchboard::default();
        board.set(rule(json!({ "status": 500 })).unwrap());
        board.set(rule(json!({ "path_prefix": "/api/v1/t", "times": 1, "status": 503 })).unwrap());
        let status = |path| board.take(path).status.map(|status| status.as_u16());
        assert_eq!(status("/api/v1/personas"), Some(500));
        assert_eq!(status("/api/v1/templates"), Some(503));
        assert_eq!(status("/api/v1/templates"), Some(500));
        board.clear(None);
        assert_eq!(status("/api/v1/templates"), None);
    }
}
