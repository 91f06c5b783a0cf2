//! PKCS#11 libraries of this process: each is loaded and initialised once, as the standard has it, and stays.
//!
//! A login holds for the whole process, so that a second one is not asked for its PIN by the token: the PIN that was let
//! in is remembered as a hash, and another one is refused here. So is one that the token refused: it is not tried twice.

use super::{HsmError, Pin, TokenAddress};
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use zeroize::Zeroizing;

/// Behind a lock of its own.
type Own<T> = Arc<Mutex<T>>;

/// By path; each behind a lock of its own, as one that hangs must not keep the others waiting.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Own<Option<Pkcs11>>>>> = LazyLock::new(Mutex::default);
/// What tokens said to PINs. Each token's is held during its login: two at once could count as two wrong tries.
static LOGINS: LazyLock<Mutex<HashMap<TokenAddress, Own<Said>>>> = LazyLock::new(Mutex::default);

/// Refused PINs remembered for a token: more come only from someone who guesses, and are refused without asking.
const REFUSED_MAX: usize = 3;

#[derive(Default)]
struct Said {
    let_in: Option<[u8; 32]>,
    refused: Vec<[u8; 32]>,
}

/// A session of a token, logged in. Blocks.
pub(super) fn session(address: &TokenAddress, pin: &Pin) -> Result<Session, HsmError> {
    let pkcs11 = module(&address.module)?;
    let slot = slot(&pkcs11, address)?;
    let session = pkcs11.open_rw_session(slot)?;
    log_in(&pkcs11, slot, &session, address, pin)?;
    Ok(session)
}

fn module(path: &Path) -> Result<Pkcs11, HsmError> {
    let failed = |source| HsmError::Module { path: path.to_owned(), source };
    let place = Arc::clone(MODULES.lock().entry(path.to_owned()).or_default());
    let mut place = place.lock();
    if let Some(pkcs11) = &*place {
        return Ok(pkcs11.clone());
    }
    let pkcs11 = Pkcs11::new(path).map_err(failed)?;
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Under another path of the same library.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(place.insert(pkcs11).clone())
}

fn slot(pkcs11: &Pkcs11, address: &TokenAddress) -> Result<Slot, HsmError> {
    let mut found = Vec::new();
    for slot in pkcs11.get_slots_with_initialized_token()? {
        if pkcs11.get_token_info(slot)?.label().trim_end() == address.token {
            found.push(slot);
        }
    }
    match found[..] {
        [slot] => Ok(slot),
        _ => Err(HsmError::Token { label: address.token.clone(), found: found.len() }),
    }
}

fn log_in(pkcs11: &Pkcs11, slot: Slot, session: &Session, address: &TokenAddress, pin: &Pin) -> Result<(), HsmError> {
    let label = || address.token.clone();
    let said = Arc::clone(LOGINS.lock().entry(address.clone()).or_default());
    let mut said = said.lock();
    let hash = hash(address, pin);
    if said.refused.contains(&hash) || said.refused.len() >= REFUSED_MAX {
        return Err(HsmError::WrongPin { label: label() });
    }
    let info = pkcs11.get_token_info(slot)?;
    if info.user_pin_locked() || info.user_pin_final_try() {
        return Err(HsmError::PinLocked { label: label() });
    }
    match session.login(UserType::User, Some(&AuthPin::new(pin.expose().into()))) {
        Ok(()) => {
            *said = Said { let_in: Some(hash), refused: Vec::new() };
            Ok(())
        }
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) if said.let_in == Some(hash) => Ok(()),
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Err(HsmError::WrongPin { label: label() }),
        Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _)) => {
            said.refused.push(hash);
            Err(HsmError::WrongPin { label: label() })
        }
        Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(HsmError::PinLocked { label: label() }),
        Err(error) => Err(error.into()),
    }
}

fn hash(address: &TokenAddress, pin: &Pin) -> [u8; 32] {
    let text = Zeroizing::new([address.token.as_bytes(), b"\0", pin.expose().as_bytes()].concat());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &text).as_ref());
    hash
}
