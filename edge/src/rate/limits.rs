//! How many requests a minute each tier may send, as the operator sets it.

use std::num::NonZeroU32;
use std::str::FromStr;

use contract::Tier;

/// Requests a minute by tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits([Option<NonZeroU32>; Tier::ALL.len()]);

/// A limit above this could not be told from none.
const MOST: u32 = 10_000_000;

impl Limits {
    /// Those of the contract.
    pub const DEFAULT: &str = "free=60,basic=300,premium=1000,enterprise=unlimited";

    /// No limits.
    pub fn off() -> Self {
        Limits([None; Tier::ALL.len()])
    }

    /// Requests a minute; `None` for any number.
    pub fn of(&self, tier: Tier) -> Option<u32> {
        self.0[tier as usize].map(NonZeroU32::get)
    }
}

impl FromStr for Limits {
    type Err = String;

    /// `off`, or `tier=number` and `tier=unlimited`, comma-separated; a tier that is not named keeps its own.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "off" {
            return Ok(Limits::off());
        }
        let mut limits = Limits::off();
        for tier in Tier::ALL {
            limits.0[*tier as usize] = tier.requests_per_minute().and_then(NonZeroU32::new);
        }
        for part in text.split(',') {
            let (tier, limit) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} must be tier=number, or the whole off"))?;
            let tier: Tier = tier.trim().parse().map_err(|fault| format!("{tier:?} {fault}"))?;
            limits.0[tier as usize] = match limit.trim() {
                "unlimited" => None,
                number => {
                    Some(number.parse().ok().filter(|number: &NonZeroU32| number.get() <= MOST).ok_or_else(
                        || format!("{tier} must have 1 to {MOST} requests a minute, or unlimited"),
                    )?)
                }
            };
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_the_contract_sells() {
        let limits: Limits = Limits::DEFAULT.parse().expect("limits");
        for tier in Tier::ALL {
            assert_eq!(limits.of(*tier), tier.requests_per_minute());
        }
    }

    #[test]
    fn an_operator_changes_some_or_switches_all_off_and_a_slip_stops_the_start() {
        let limits: Limits = "basic=7, free=unlimited".parse().expect("limits");
        assert_eq!((limits.of(Tier::Basic), limits.of(Tier::Free)), (Some(7), None));
        assert_eq!(limits.of(Tier::Premium), Some(1000));
        assert_eq!("off".parse(), Ok(Limits::off()));
        for slip in ["", "free", "free=0", "free=-1", "gold=5", "free=60,", "free=99999999999"] {
            assert!(slip.parse::<Limits>().is_err(), "{slip:?}");
        }
    }
}
