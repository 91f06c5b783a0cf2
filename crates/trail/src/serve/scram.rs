//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side (RFC 5802, 7677, 5929), over a verifier.
//!
//! The messages are ours because pgwire's server wants the salted password, with which anybody can log in; a verifier only
//! checks. A name that does not exist goes through the same two messages, so that names cannot be tried.

use super::verifier::Verifier;
use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Without channel binding.
pub(super) const PLAIN: &str = "SCRAM-SHA-256";
/// Bound to this server's certificate.
pub(super) const PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Longest message; the protocol's own are below 300.
const MESSAGE_BYTES_MAX: usize = 1_024;
const NONCE_BYTES: usize = 24;

/// Why an exchange ends. All look the same to the client but a message that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScramError {
    /// Not a message of the protocol.
    Message,
    /// Its channel is not ours: somebody is between.
    Channel,
    /// The proof does not hold.
    Proof,
}

/// After the first message of either side.
pub(super) struct Exchange {
    verifier: Verifier,
    gs2_header: String,
    channel: Vec<u8>,
    nonce: String,
    client_first_bare: String,
    /// What is sent to the client.
    pub(super) server_first: String,
}

impl Exchange {
    /// Reads the client's first message. `end_point`: our certificate's hash when the mechanism is [`PLUS`]; `offered`:
    /// whether we offered that, so that someone who took the offer away is found out.
    pub(super) fn begin(
        verifier: Verifier,
        client_first: &[u8],
        end_point: Option<&[u8]>,
        offered: bool,
    ) -> Result<Self, ScramError> {
        let text = text(client_first)?;
        let mut parts = text.splitn(3, ',');
        let mut part = || parts.next().ok_or(ScramError::Message);
        let (flag, authzid, bare) = (part()?, part()?, part()?);
        match (flag, end_point) {
            ("p=tls-server-end-point", Some(_)) => {}
            ("n", None) => {}
            // It could have bound and saw no offer: we made one, so somebody removed it.
            ("y", None) if offered => return Err(ScramError::Channel),
            ("y", None) => {}
            _ => return Err(ScramError::Message),
        }
        if !authzid.is_empty() || bare.starts_with("m=") {
            return Err(ScramError::Message);
        }
        // The name is PostgreSQL's own; the one in here is ignored, as PostgreSQL does.
        let client_nonce = bare.split(',').find_map(|part| part.strip_prefix("r=")).ok_or(ScramError::Message)?;
        if client_nonce.is_empty() {
            return Err(ScramError::Message);
        }
        let mut own = [0; NONCE_BYTES];
        rand::fill(&mut own).map_err(|_| ScramError::Message)?;
        let nonce = format!("{client_nonce}{}", STANDARD.encode(own));
        let salt = STANDARD.encode(&verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations);
        Ok(Self {
            verifier,
            gs2_header: format!("{flag},{authzid},"),
            channel: end_point.unwrap_or_default().to_vec(),
            nonce,
            client_first_bare: bare.to_owned(),
            server_first,
        })
    }

    /// Reads the client's last message; gives ours, which proves that we knew the verifier.
    pub(super) fn finish(&self, client_final: &[u8]) -> Result<String, ScramError> {
        let text = text(client_final)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Message)?;
        let mut parts = without_proof.split(',');
        let channel = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(ScramError::Message)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(ScramError::Message)?;
        let mut expected = self.gs2_header.clone().into_bytes();
        expected.extend_from_slice(&self.channel);
        if channel != STANDARD.encode(expected) {
            return Err(ScramError::Channel);
        }
        let proof = STANDARD.decode(proof).map_err(|_| ScramError::Message)?;
        if nonce != self.nonce || proof.len() != self.verifier.stored_key.len() {
            return Err(ScramError::Proof);
        }
        let message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let sign = |key: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
        let signature = sign(&self.verifier.stored_key);
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        constant_time::verify_slices_are_equal(stored_key.as_ref(), &self.verifier.stored_key)
            .map_err(|_| ScramError::Proof)?;
        Ok(format!("v={}", STANDARD.encode(sign(&self.verifier.server_key))))
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Message);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RFC_7677: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    /// RFC 7677, section 3, with the server's nonce put in.
    #[test]
    fn the_rfcs_exchange_holds() {
        let mut exchange =
            Exchange::begin(RFC_7677.parse().unwrap(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", None, false).unwrap();
        exchange.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        exchange.server_first = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", exchange.nonce);
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(exchange.finish(last).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let wrong = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVA=";
        assert_eq!(exchange.finish(wrong), Err(ScramError::Proof));
        assert_eq!(exchange.finish(b"c=eSws,r=x,p=eA=="), Err(ScramError::Channel));
        assert_eq!(exchange.finish(b"nonsense"), Err(ScramError::Message));
    }

    #[test]
    fn a_channel_that_is_not_ours_and_a_taken_away_offer_are_found() {
        let verifier: Verifier = RFC_7677.parse().unwrap();
        let begin = |first: &[u8], end_point, offered| Exchange::begin(verifier.clone(), first, end_point, offered);
        assert_eq!(begin(b"y,,n=u,r=a", None, true).err(), Some(ScramError::Channel));
        assert!(begin(b"y,,n=u,r=a", None, false).is_ok() && begin(b"n,,n=u,r=a", None, true).is_ok());
        assert_eq!(begin(b"n,,n=u,r=a", Some(b"hash"), true).err(), Some(ScramError::Message));
        let bound = begin(b"p=tls-server-end-point,,n=u,r=a", Some(b"hash"), true).unwrap();
        let other = STANDARD.encode(b"p=tls-server-end-point,,other");
        let last = format!("c={other},r={},p={}", bound.nonce, STANDARD.encode([0; 32]));
        assert_eq!(bound.finish(last.as_bytes()), Err(ScramError::Channel));
        for none in [&b"p=tls-unique,,n=u,r=a"[..], b"", b"n,,", b"n,a=other,n=u,r=a", b"\xff", &[b'n'; 2_000]] {
            assert!(begin(none, None, false).is_err());
        }
    }
}
