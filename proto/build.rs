//! Compiles the .proto files with protox, so that no protoc has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let identity = [
        "persona/identity/v1/identity.proto",
        "persona/identity/v1/admin.proto",
        "persona/identity/v1/api_keys.proto",
    ];
    let subscription =
        ["persona/subscription/v1/subscription.proto", "persona/subscription/v1/billing.proto"];
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // tonic-prost-build writes no descriptor set when it is handed one; the reflection of each service needs its own.
    fs::write(out.join("identity.bin"), protox::compile(identity, ["proto"])?.encode_to_vec())?;
    fs::write(out.join("subscription.bin"), protox::compile(subscription, ["proto"])?.encode_to_vec())?;
    let descriptors = protox::compile(identity.iter().chain(&subscription), ["proto"])?;
    tonic_prost_build::configure()
        // Debug output reaches logs: no generated message may print a password or a token.
        .skip_debug(SECRET_MESSAGES)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Messages that carry a secret; `src/redacted.rs` writes their `Debug`.
const SECRET_MESSAGES: [&str; 17] = [
    ".persona.identity.v1.RegisterRequest",
    ".persona.identity.v1.LoginRequest",
    ".persona.identity.v1.RefreshRequest",
    ".persona.identity.v1.ValidateTokenRequest",
    ".persona.identity.v1.ChangePasswordRequest",
    ".persona.identity.v1.TokenPair",
    ".persona.identity.v1.Profile",
    ".persona.identity.v1.SetPasswordRequest",
    ".persona.identity.v1.VerifyEmailRequest",
    ".persona.identity.v1.ResetPasswordRequest",
    ".persona.identity.v1.ImportedRow",
    ".persona.identity.v1.CreateApiKeyResponse",
    ".persona.identity.v1.RedeemApiKeyRequest",
    ".persona.identity.v1.RedeemApiKeyResponse",
    ".persona.subscription.v1.CreateCheckoutRequest",
    ".persona.subscription.v1.CreateCheckoutResponse",
    ".persona.subscription.v1.HandleStripeEventRequest",
];
