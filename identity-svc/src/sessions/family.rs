//! A refresh token and all that come of it, against a model: whoever presents them, in whatever order.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::ErrorCode;
use contract::identity::{Device, LoginRequest, TokenPair, TokenUse};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::MySqlPool;

use super::{note_use, refresh};
use crate::identity::Identity;
use crate::sign_in;
use crate::tests::{identity, register};

/// What somebody does, each with one of the tokens there are.
#[derive(Clone, Debug)]
enum Step {
    /// Whoever has it presents the refresh token.
    Presents(prop::sample::Index),
    /// An edge has seen the access token that came with it.
    IsSeen(prop::sample::Index),
    /// The client presents the newest that has reached it; the answer arrives, or does not.
    Refreshes { arrives: bool },
}

struct Token {
    text: String,
    access_id: String,
    parent: Option<usize>,
    spent: bool,
    seen: bool,
}

/// The family as the rules describe it.
struct Family {
    tokens: Vec<Token>,
    ended: bool,
    /// The newest that has reached the client.
    held: usize,
}

impl Family {
    fn of(first: &TokenPair) -> Self {
        let mut family = Family { tokens: Vec::new(), ended: false, held: 0 };
        family.add(first, None);
        family
    }

    fn add(&mut self, pair: &TokenPair, parent: Option<usize>) {
        let payload = pair.access_token.split('.').nth(1).expect("a payload");
        let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64");
        let claims: serde_json::Value = serde_json::from_slice(&payload).expect("claims");
        let access_id = claims["jti"].as_str().expect("an id").to_owned();
        let text = pair.refresh_token.clone();
        self.tokens.push(Token { text, access_id, parent, spent: false, seen: false });
    }

    fn is_overtaken(&self, index: usize) -> bool {
        let parent = self.tokens[index].parent;
        let siblings = self.tokens.iter().enumerate().filter(|(other, _)| *other != index);
        parent.is_some() && siblings.into_iter().any(|(_, token)| token.parent == parent && token.spent)
    }

    /// Whether a token is good when it is presented, and what becomes of the family.
    fn present(&mut self, index: usize) -> bool {
        if self.ended || !self.tokens[index].spent && self.is_overtaken(index) {
            return false;
        }
        let arrived = |token: &Token| token.parent == Some(index) && (token.spent || token.seen);
        if self.tokens[index].spent && self.tokens.iter().any(arrived) {
            self.ended = true;
            return false;
        }
        self.tokens[index].spent = true;
        true
    }

    /// Never two: all tokens that stand for the session are children of one.
    fn has_one_branch(&self) -> bool {
        let live = (0..self.tokens.len())
            .filter(|index| !self.ended && !self.tokens[*index].spent && !self.is_overtaken(*index));
        let mut parents: Vec<_> = live.map(|index| self.tokens[index].parent).collect();
        parents.dedup();
        parents.len() <= 1
    }
}

async fn presents(identity: &Identity, family: &mut Family, index: usize) -> bool {
    let good = family.present(index);
    match refresh(identity, &family.tokens[index].text, &Device::default()).await {
        Ok(pair) => {
            assert!(good, "token {index} is refused");
            family.add(&pair, Some(index));
        }
        Err(failure) => {
            assert_eq!(failure.code(), ErrorCode::TokenInvalid);
            assert!(!good, "token {index} is good");
        }
    }
    good
}

async fn is_seen(identity: &Identity, family: &mut Family, index: usize) {
    family.tokens[index].seen = true;
    let used = TokenUse { token_id: family.tokens[index].access_id.clone(), at: None };
    note_use(identity, &[used]).await.expect("noted");
}

async fn plays(identity: &Identity, name: &str, steps: Vec<Step>) {
    let email = format!("{name}@example.com");
    register(identity, &email).await;
    let password = "correct horse battery".to_owned();
    let request = LoginRequest { email, password, device: Some(Device::default()) };
    let mut family = Family::of(&sign_in::log_in(identity, request).await.expect("signed in"));
    let alone = steps.iter().all(|step| matches!(step, Step::Refreshes { .. }));
    println!("{name}: {steps:?}");
    for step in &steps {
        match step {
            Step::Presents(index) => {
                let index = index.index(family.tokens.len());
                presents(identity, &mut family, index).await;
            }
            Step::IsSeen(index) => {
                let index = index.index(family.tokens.len());
                is_seen(identity, &mut family, index).await;
            }
            Step::Refreshes { arrives } => {
                let held = family.held;
                let good = presents(identity, &mut family, held).await;
                assert!(good || !alone, "{name}: an honest client is never signed out");
                if good && *arrives {
                    family.held = family.tokens.len() - 1;
                    let held = family.held;
                    is_seen(identity, &mut family, held).await;
                }
            }
        }
        assert!(family.has_one_branch(), "{name}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_family_of_refresh_tokens_has_one_branch_and_an_honest_client_stays(pool: MySqlPool) {
    let identity = identity(pool).await;
    let refreshes = || any::<bool>().prop_map(|arrives| Step::Refreshes { arrives });
    let anything = prop_oneof![
        3 => any::<prop::sample::Index>().prop_map(Step::Presents),
        2 => any::<prop::sample::Index>().prop_map(Step::IsSeen),
        3 => refreshes(),
    ];
    let mut runner = TestRunner::default();
    let mut families = Vec::new();
    for number in 0..24 {
        let steps = match number % 3 {
            0 => prop::collection::vec(refreshes(), 1..10).new_tree(&mut runner).expect("steps").current(),
            _ => {
                prop::collection::vec(anything.clone(), 1..14).new_tree(&mut runner).expect("steps").current()
            }
        };
        families.push((format!("family-{number}"), steps));
    }
    join_all(families.into_iter().map(async |(name, steps)| plays(&identity, &name, steps).await)).await;
}
