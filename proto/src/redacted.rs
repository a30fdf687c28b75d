//! `Debug` of the messages that carry a secret or personal data: they print their name alone.

use std::fmt::{Debug, Formatter, Result};

use crate::identity::{
    ChangePasswordRequest, CreateApiKeyResponse, ImportedRow, LoginRequest, Profile, RedeemApiKeyRequest,
    RedeemApiKeyResponse, RefreshRequest, RegisterRequest, ResetPasswordRequest, SetPasswordRequest,
    TokenPair, ValidateTokenRequest, VerifyEmailRequest,
};
use crate::subscription::{CreateCheckoutRequest, CreateCheckoutResponse, HandleStripeEventRequest};

macro_rules! redact {
    ($($message:ident),*) => {$(
        impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.write_str(concat!(stringify!($message), " [redacted]"))
            }
        }
    )*};
}

redact!(
    ChangePasswordRequest,
    CreateApiKeyResponse,
    CreateCheckoutRequest,
    CreateCheckoutResponse,
    HandleStripeEventRequest,
    ImportedRow,
    LoginRequest,
    Profile,
    RedeemApiKeyRequest,
    RedeemApiKeyResponse,
    RefreshRequest,
    RegisterRequest,
    ResetPasswordRequest,
    SetPasswordRequest,
    TokenPair,
    ValidateTokenRequest,
    VerifyEmailRequest
);
