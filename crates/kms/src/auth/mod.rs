//! Who is calling: SigV4 signatures, credentials, and the identities they belong to.
//!
//! `sigv4` signs and verifies requests, `credentials` holds the secret types and the AWS shared-credentials file,
//! `identities` maps access keys to principals and their policies. What a principal may do is `policy`'s business.

pub mod credentials;
pub mod identities;
pub mod sigv4;

pub use credentials::{Credentials, CredentialsError, SecretKey};
