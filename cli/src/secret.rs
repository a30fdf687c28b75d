//! Fresh secrets, and how one takes the place of another without a refused request.

use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use crate::Outcome;
use crate::output::{Fault, Output};

/// 256 bits, as long as the digest of HS256 (RFC 7518 section 3.2).
const BYTES: usize = 32;

/// Whoever verifies must know a secret before anybody signs with it: edges, and each identity-svc for the tokens of another.
const ROTATION: &str = "\
To replace JWT_SECRET_KEY without a refused request, restarting one process after the other in each step:
  1. all edges and identity-svc: add the new secret to JWT_PREVIOUS_SECRET_KEYS
  2. identity-svc: the new one as JWT_SECRET_KEY, the former one in JWT_PREVIOUS_SECRET_KEYS
  3. with JWT_ALGORITHM EdDSA or ES256: `identity-svc keys rotate`, since the former secret locks the private key in use
  4. ACCESS_TOKEN_TTL_SECONDS later, all edges and identity-svc: the new one as JWT_SECRET_KEY, the former one nowhere
Key pairs of EdDSA and ES256 are themselves replaced by `identity-svc keys rotate` alone.

To replace INTERNAL_GRPC_TOKEN: in all processes at once. Until the last one has it, calls between those with the former and
those with the new one are refused; choose a quiet hour.
";

/// `persona keys secret`
pub fn run(rotation: bool, output: Output) -> Outcome {
    let secret = secret()?;
    let mut told = json!({ "secret": secret });
    if rotation && output == Output::Json {
        told["rotation"] = ROTATION.into();
    } else if rotation {
        eprint!("{ROTATION}");
    }
    output.show(&told, |_| format!("{secret}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Out of the random numbers of the system; 43 characters that need no quoting anywhere.
fn secret() -> Result<String, Fault> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Fault::said("the system gives no random numbers"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_that_every_process_takes_and_another_each_time() {
        let (one, other) = (secret().expect("a secret"), secret().expect("a secret"));
        assert!(one.len() == 43 && one != other);
        let given = [("KEY".to_owned(), one)];
        assert!(chassis::settings::load_from(given, |env| env.secret("KEY", "what for")).is_ok());
    }
}
