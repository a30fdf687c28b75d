//! What is limited, and how.

use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::Subject;

/// How long somebody who has proven to own an account is not held up by the guesses of others.
const VOUCHED: Duration = Duration::from_secs(3600);

/// How many attempts are free; 0 switches the rules off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wrong passwords for one account from one address.
    pub account: u32,
    /// Wrong passwords from one address.
    pub address: u32,
    /// Registrations from one address.
    pub registrations: u32,
    /// Mails that somebody asks for to one account.
    pub mails_to_account: u32,
    /// Mails that are asked for from one address.
    pub mails_from_address: u32,
}

/// What is counted, and how long it makes one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) name: &'static str,
    pub(super) free: u32,
    /// The wait after the first attempt that is not free.
    first: Duration,
    longest: Duration,
    /// A subject that has been quiet for this long starts over.
    pub(super) forget: Duration,
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const SECOND: Duration = Duration::from_secs(1);

impl Limits {
    /// Guessing at one account from one address.
    pub fn account_from_address(self) -> Rule {
        let (name, free) = ("account_from_address", self.account);
        Rule { name, free, first: SECOND, longest: minutes(15), forget: minutes(60) }
    }

    /// Guessing at one account from anywhere (NIST SP 800-63B-4 section 3.2.2: no more than a hundred). Addresses that
    /// have signed in to the account are exempt, so that a stranger cannot lock its owner out.
    pub fn account(self) -> Rule {
        let free = self.account.saturating_mul(20);
        Rule { name: "account", free, first: SECOND, longest: minutes(1), forget: minutes(60) }
    }

    /// Guessing at many accounts from one address.
    pub fn address(self) -> Rule {
        let (name, free) = ("address", self.address);
        Rule { name, free, first: SECOND, longest: minutes(5), forget: minutes(15) }
    }

    /// Guessing at the current password of the account that one is signed in to.
    pub fn password_changes(self) -> Rule {
        Rule { name: "password_changes", ..self.account_from_address() }
    }

    /// Registering from one address, which tells which e-mails are taken.
    pub fn registrations(self) -> Rule {
        let (name, free) = ("registrations", self.registrations);
        Rule { name, free, first: SECOND, longest: minutes(60), forget: minutes(60) }
    }

    /// Having mails sent to one account, whether there is one or not.
    pub fn mails_to_account(self) -> Rule {
        let (name, free) = ("mails_to_account", self.mails_to_account);
        Rule { name, free, first: minutes(1), longest: minutes(60), forget: minutes(24 * 60) }
    }

    /// Having mails sent to the account that one is signed in to, of which nothing is used up by strangers.
    pub fn mails_to_owner(self) -> Rule {
        Rule { name: "mails_to_owner", ..self.mails_to_account() }
    }

    /// Telling the owner of an account that there is an API key more: keys can be made and ended without end, and the owner
    /// of the address may be another than that of the account.
    pub fn notices_of_keys(self) -> Rule {
        let free = self.mails_to_account.saturating_mul(8);
        Rule { name: "notices_of_keys", free, ..self.mails_to_account() }
    }

    /// Having mails sent from one address.
    pub fn mails_from_address(self) -> Rule {
        let (name, free) = ("mails_from_address", self.mails_from_address);
        Rule { name, free, first: minutes(1), longest: minutes(60), forget: minutes(60) }
    }

    /// The owner of an account at an address, who has shown to be it otherwise than by the password.
    pub fn proven_owner(self) -> Rule {
        Rule { name: "proven_owner", free: 1, first: SECOND, longest: SECOND, forget: VOUCHED }
    }
}

impl Rule {
    /// The subject of the rule with this name.
    pub fn of(self, subject: &str) -> Subject {
        let text = format!("{}\n{subject}", self.name);
        Subject { rule: self, bucket: digest(&SHA256, text.as_bytes()).as_ref().to_vec() }
    }

    /// The longest that one waits.
    pub(super) fn longest(self) -> Duration {
        self.longest
    }

    /// How long the attempt after this many makes one wait.
    pub(super) fn wait(self, attempts: u32) -> Duration {
        match attempts.saturating_sub(self.free) {
            0 => Duration::ZERO,
            over => self.first.saturating_mul(1 << (over - 1).min(20)).min(self.longest),
        }
    }
}
