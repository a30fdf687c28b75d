//! Query parameters that are read as text, so that all that are wrong can be named at once. An empty one is an absent one.

use std::str::FromStr;

use contract::{ErrorCode, Failure, NOT_AN_ID, Outcome, is_canonical_id};

/// Reads parameters and collects what is wrong with them.
pub struct Reader(Failure);

impl Default for Reader {
    fn default() -> Self {
        Reader(Failure::new(ErrorCode::InvalidRequest))
    }
}

impl Reader {
    pub fn read<T>(
        &mut self,
        name: &'static str,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = text.filter(|text| !text.is_empty())?;
        parse(&text).inspect_err(|fault| self.0.add_field(name, fault)).ok()
    }

    pub fn number(&mut self, name: &'static str, text: Option<String>, most: i32) -> Option<i32> {
        self.read(name, text, |text| {
            let number = text.parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| format!("must be a whole number from 1 to {most}"))
        })
    }

    pub fn id(&mut self, name: &'static str, text: Option<String>) -> Option<String> {
        let id =
            |text: &str| if is_canonical_id(text) { Ok(text.to_owned()) } else { Err(NOT_AN_ID.to_owned()) };
        self.read(name, text, id)
    }

    /// What was read, unless something was wrong.
    ///
    /// # Errors
    /// REQ001, with a fault for each parameter that was wrong.
    pub fn finish<T>(self, read: T) -> Outcome<T> {
        if self.0.fields().is_empty() { Ok(read) } else { Err(self.0) }
    }
}

/// A name that the contract knows.
///
/// # Errors
/// What is wrong with it, in words.
pub fn named<T: FromStr<Err: ToString>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned()).map_err(|fault| fault.to_string())
}
