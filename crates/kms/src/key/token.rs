//! A key inside a token: what it does there, and what becomes of it while its store is not connected.

use super::{KeyRecord, KeyState, scope};
use crate::crypto::{SecretBytes, token_blob};
use crate::hsm::HsmError;
use crate::key_store::Connection;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A key inside a token in use.
pub struct TokenKey<'a> {
    pub(super) key: &'a KeyRecord,
    pub(super) connection: Arc<Connection>,
}

impl TokenKey<'_> {
    /// Encrypts inside the token, bound to this key and the context.
    pub(crate) async fn encrypt(
        &self,
        plaintext: &[u8],
        context: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, HsmError> {
        let KeyRecord { id, account, .. } = self.key;
        let label = id.to_string();
        let head = token_blob::head(account.as_str(), scope(id), &label).map_err(|_| HsmError::NotOpened)?;
        let (aad, text) = (token_blob::additional_data(&head, context), SecretBytes::new(plaintext.to_vec()));
        let sealed = self.connection.with(move |session| session.seal(session.key(&label)?, &aad, text.expose()));
        Ok([head, sealed.await?].concat())
    }

    /// Decrypts inside the token what was encrypted under this key with the same context.
    pub(crate) async fn decrypt(
        &self,
        blob: &[u8],
        context: &BTreeMap<String, String>,
    ) -> Result<SecretBytes, HsmError> {
        let parts = token_blob::split(blob).map_err(|_| HsmError::NotOpened)?;
        let (aad, sealed) = (token_blob::additional_data(parts.head, context), parts.sealed.to_vec());
        let label = self.key.id.to_string();
        let opened = self.connection.with(move |session| session.unseal(session.key(&label)?, &aad, &sealed)).await?;
        Ok(SecretBytes::new(opened.to_vec()))
    }
}

impl KeyRecord {
    /// The state that others see: a key whose store is not connected is unavailable, enabled or not.
    pub fn shown_state(&self) -> KeyState {
        let away = self.store.as_ref().is_some_and(|store| store.connection().is_none());
        match self.state {
            KeyState::Enabled | KeyState::Disabled if away => KeyState::Unavailable,
            state => state,
        }
    }
}
