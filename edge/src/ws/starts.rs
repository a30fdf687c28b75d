//! The workflows that were started on a socket, followed through what core-manager says of them. It says so under the
//! `id` of the start alone; so no other message of the socket may have that id, as its answer would pass for one to the
//! start.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use contract::{ErrorCode, Failure, Outcome};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::envelope::kind;
use super::legs::Number;

/// Most workflows of one socket that have not ended.
const MOST: usize = 256;
/// So many refused starts of one socket are still followed.
const MOST_REFUSED: usize = 64;
/// So many messages back the ids of other messages are remembered.
const REMEMBERED: usize = 4096;
/// Largest `result` that is kept for a start that is sent again, in bytes.
const LARGEST_RESULT: usize = 16 * 1024;

/// What core-manager has said of a start.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Awaited,
    Refused,
    /// The `data` of the first status.
    Runs(Value),
    /// The `data` of the last one.
    Ended(Value),
}

/// The workflows of a socket, by the ids of their starts.
#[derive(Default)]
pub struct Starts {
    /// Those that have not ended.
    running: HashMap<String, Followed>,
    /// Those that core-manager has refused, the latest last: should one report all the same, it has started.
    refused: VecDeque<(String, Followed)>,
    /// Hashes of the ids of the last messages that were no starts.
    others: VecDeque<u64>,
    hasher: RandomState,
}

struct Followed {
    news: watch::Sender<News>,
    /// The leg that it was started on.
    leg: Number,
    /// When the client is to be told that core-manager says nothing, unless it was told.
    overdue_at: Option<Instant>,
}

/// A message of core-manager, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    correlation_id: Value,
    #[serde(default)]
    data: Value,
}

impl Starts {
    /// Whether a start with this id may be followed.
    ///
    /// # Errors
    /// GW003; REQ001 when another message had the id, whose answer may still come.
    pub fn admit(&self, id: &str) -> Outcome<()> {
        if self.others.contains(&self.hasher.hash_one(id)) {
            return Err(Failure::field("id", "was used for another message of this socket"));
        }
        if self.running.len() < MOST {
            return Ok(());
        }
        let failure = Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1));
        Err(failure.saying(format!("At most {MOST} workflows of one socket may run at once")))
    }

    /// Whether a message that is no start may pass with this id.
    ///
    /// # Errors
    /// REQ001 when the id is that of a workflow that has not ended.
    pub fn admit_other(&mut self, id: &str) -> Outcome<()> {
        if self.running.contains_key(id) {
            return Err(Failure::field("id", "belongs to a workflow of this socket that has not ended"));
        }
        if self.others.len() == REMEMBERED {
            self.others.pop_front();
        }
        self.others.push_back(self.hasher.hash_one(id));
        Ok(())
    }

    /// From now on there may be news of this start, on this leg; the first of them within `patience`.
    pub fn expect(&mut self, id: String, leg: Number, patience: Duration) -> watch::Receiver<News> {
        let (news, receiver) = watch::channel(News::Awaited);
        let overdue_at = Some(Instant::now() + patience);
        self.running.insert(id, Followed { news, leg, overdue_at });
        receiver
    }

    /// The ids of starts that core-manager says nothing of for too long, once each. It may do so still.
    pub fn overdue(&mut self) -> Vec<String> {
        let now = Instant::now();
        let is_overdue = |followed: &mut Followed| {
            followed.is_awaited() && followed.overdue_at.take_if(|at| *at <= now).is_some()
        };
        let overdue = self.running.iter_mut().filter_map(|(id, followed)| is_overdue(followed).then_some(id));
        overdue.cloned().collect()
    }

    /// Whether core-manager still owes the first word on a start.
    pub fn are_awaited(&self) -> bool {
        self.running.values().any(Followed::is_awaited)
    }

    /// Whether anything that was started on a leg has not ended.
    pub fn run_on(&self, leg: Number) -> bool {
        self.running.values().any(|followed| followed.leg == leg)
    }

    /// Nothing more can be heard of what was started on a leg. Gives the ids of what had not ended.
    pub fn lose(&mut self, leg: Number) -> Vec<String> {
        self.refused.retain(|(_, followed)| followed.leg != leg);
        self.running.extract_if(|_, followed| followed.leg == leg).map(|(id, _)| id).collect()
    }

    /// Hears a text of core-manager from a leg. Gives whether it is a message at all.
    pub fn hear(&mut self, leg: Number, text: &str) -> bool {
        if !text.trim_start().starts_with('{') {
            return false;
        }
        let Ok(message) = serde_json::from_str::<Message>(text) else { return false };
        if let Value::String(id) = message.correlation_id {
            match message.kind.as_str() {
                kind::ERROR => self.refuse(leg, &id),
                kind::WORKFLOW_STATUS => self.report(id, message.data),
                _ => {}
            }
        }
        true
    }

    /// A refusal comes on the leg that the start took.
    fn refuse(&mut self, leg: Number, id: &str) {
        if !self.running.get(id).is_some_and(|followed| followed.leg == leg && followed.is_awaited()) {
            return;
        }
        if let Some((id, followed)) = self.running.remove_entry(id) {
            followed.news.send_replace(News::Refused);
            if self.refused.len() == MOST_REFUSED {
                self.refused.pop_front();
            }
            self.refused.push_back((id, followed));
        }
    }

    fn report(&mut self, id: String, data: Value) {
        if !self.running.contains_key(&id)
            && let Some(place) = self.refused.iter().rposition(|(refused, _)| *refused == id)
        {
            self.running.extend(self.refused.remove(place));
        }
        let Some(Followed { news, .. }) = self.running.get(&id) else { return };
        if matches!(data["status"].as_str(), Some("completed" | "failed")) {
            news.send_replace(News::Ended(state(data)));
            self.running.remove(&id);
        } else if matches!(*news.borrow(), News::Awaited | News::Refused) {
            news.send_replace(News::Runs(state(data)));
        }
    }
}

impl Followed {
    fn is_awaited(&self) -> bool {
        *self.news.borrow() == News::Awaited
    }
}

/// The fields of a status, without a result that is too large to keep.
fn state(data: Value) -> Value {
    let Value::Object(mut data) = data else { return json!({ "status": "in_progress" }) };
    let mut state = Map::new();
    for name in ["status", "step", "progress", "result"] {
        if let Some(value) = data.remove(name)
            && (name != "result" || value.to_string().len() <= LARGEST_RESULT)
        {
            state.insert(name.to_owned(), value);
        }
    }
    Value::Object(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEG: Number = 1;
    const PATIENCE: Duration = Duration::from_secs(60);

    fn said(kind: &str, id: &str, data: Value) -> String {
        json!({ "type": kind, "id": "1", "correlation_id": id, "data": data }).to_string()
    }

    #[test]
    fn the_first_and_the_last_status_of_a_workflow_are_news_and_what_is_between_is_not() {
        let mut starts = Starts::default();
        let mut news = starts.expect("w".to_owned(), LEG, PATIENCE);
        assert!(starts.are_awaited());
        let status =
            |status: &str, step| said("workflow_status", "w", json!({ "status": status, "step": step }));
        assert!(starts.hear(LEG, &status("in_progress", 1)));
        assert_eq!(*news.borrow_and_update(), News::Runs(json!({ "status": "in_progress", "step": 1 })));
        assert!(!starts.are_awaited());
        starts.hear(LEG, &status("in_progress", 2));
        assert!(!news.has_changed().expect("followed"));
        starts.hear(LEG, &status("completed", 3));
        assert_eq!(*news.borrow(), News::Ended(json!({ "status": "completed", "step": 3 })));
        assert!(starts.running.is_empty());
    }

    #[test]
    fn an_error_refuses_a_start_that_has_not_begun_and_no_other() {
        let mut starts = Starts::default();
        let (refused, runs) =
            (starts.expect("a".to_owned(), LEG, PATIENCE), starts.expect("b".to_owned(), LEG, PATIENCE));
        starts.hear(LEG, &said("workflow_status", "b", json!({ "status": "in_progress" })));
        starts.hear(LEG, &said("error", "a", Value::Null));
        starts.hear(LEG, &said("error", "b", Value::Null));
        assert_eq!(*refused.borrow(), News::Refused);
        assert!(matches!(*runs.borrow(), News::Runs(_)));
        assert_eq!(starts.running.len(), 1);
    }

    #[test]
    fn what_is_no_message_is_no_news() {
        let mut starts = Starts::default();
        let news = starts.expect("w".to_owned(), LEG, PATIENCE);
        for text in ["", "x", "1", "[]", r#"["error","w",{}]"#, r#"{"type":1}"#] {
            assert!(!starts.hear(LEG, text), "{text}");
        }
        for text in [r#"{"type":"error"}"#, r#"{"type":"error","correlation_id":7}"#] {
            assert!(starts.hear(LEG, text), "{text}");
        }
        assert_eq!(*news.borrow(), News::Awaited);
    }

    #[test]
    fn a_large_result_is_left_out_of_what_is_kept() {
        let result = "x".repeat(LARGEST_RESULT);
        let state = state(json!({ "status": "completed", "result": result, "more": 1 }));
        assert_eq!(state, json!({ "status": "completed" }));
    }

    #[test]
    fn only_so_many_workflows_of_one_socket_run_at_once() {
        let mut starts = Starts::default();
        let news: Vec<_> = (0..MOST).map(|one| starts.expect(one.to_string(), LEG, PATIENCE)).collect();
        assert_eq!(starts.admit("next").expect_err("too many").code(), ErrorCode::Overloaded);
        starts.hear(LEG, &said("error", "7", Value::Null));
        assert!(starts.admit("next").is_ok());
        drop(news);
    }

    #[test]
    fn an_id_stands_for_one_message_while_its_answer_may_come() {
        let mut starts = Starts::default();
        let _news = starts.expect("w".to_owned(), LEG, PATIENCE);
        assert_eq!(starts.admit_other("w").expect_err("taken").code(), ErrorCode::InvalidRequest);
        assert!(starts.admit_other("m").is_ok());
        assert_eq!(starts.admit("m").expect_err("taken").code(), ErrorCode::InvalidRequest);
        starts.hear(LEG, &said("workflow_status", "w", json!({ "status": "completed" })));
        assert!(starts.admit_other("w").is_ok());
        for other in 0..REMEMBERED {
            assert!(starts.admit_other(&other.to_string()).is_ok());
        }
        assert!(starts.admit("m").is_ok(), "long ago");
    }

    #[test]
    fn a_refused_start_that_reports_all_the_same_has_started() {
        let mut starts = Starts::default();
        let news = starts.expect("w".to_owned(), LEG, PATIENCE);
        starts.hear(LEG, &said("error", "w", Value::Null));
        assert_eq!(*news.borrow(), News::Refused);
        starts.hear(LEG, &said("workflow_status", "w", json!({ "status": "in_progress" })));
        assert!(matches!(*news.borrow(), News::Runs(_)));
        assert!(starts.admit_other("w").is_err(), "its id is taken again");
        starts.hear(LEG, &said("workflow_status", "w", json!({ "status": "completed" })));
        assert!(matches!(*news.borrow(), News::Ended(_)));
        assert!(starts.running.is_empty() && starts.refused.is_empty());
    }

    #[test]
    fn of_refused_starts_the_latest_are_followed() {
        let mut starts = Starts::default();
        for one in 0..2 * MOST_REFUSED {
            let _news = starts.expect(one.to_string(), LEG, PATIENCE);
            starts.hear(LEG, &said("error", &one.to_string(), Value::Null));
        }
        assert_eq!((starts.running.len(), starts.refused.len()), (0, MOST_REFUSED));
        assert!(starts.refused.iter().any(|(id, _)| *id == (2 * MOST_REFUSED - 1).to_string()));
    }

    #[test]
    fn what_happens_on_another_leg_refuses_and_loses_nothing() {
        let mut starts = Starts::default();
        let news = starts.expect("w".to_owned(), LEG, PATIENCE);
        starts.hear(LEG + 1, &said("error", "w", Value::Null));
        assert_eq!(*news.borrow(), News::Awaited);
        assert!(starts.lose(LEG + 1).is_empty() && starts.run_on(LEG));
        starts.hear(LEG + 1, &said("workflow_status", "w", json!({ "status": "in_progress" })));
        assert!(matches!(*news.borrow(), News::Runs(_)), "whoever says so, it runs");
        assert_eq!(starts.lose(LEG), ["w"]);
        assert!(news.has_changed().is_err() && !starts.run_on(LEG));
    }

    #[tokio::test(start_paused = true)]
    async fn what_core_manager_says_nothing_of_is_overdue_once() {
        let mut starts = Starts::default();
        let _silent = starts.expect("silent".to_owned(), LEG, PATIENCE);
        let _runs = starts.expect("runs".to_owned(), LEG, PATIENCE);
        starts.hear(LEG, &said("workflow_status", "runs", json!({ "status": "in_progress" })));
        assert!(starts.overdue().is_empty());
        tokio::time::advance(PATIENCE).await;
        assert_eq!(starts.overdue(), ["silent"]);
        assert!(starts.overdue().is_empty() && starts.are_awaited());
    }
}
