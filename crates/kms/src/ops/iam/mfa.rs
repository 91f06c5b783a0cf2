//! Virtual MFA devices: made, handed to a user who proves to have it, taken back when it is lost.
//!
//! The seed is answered once, as Base32; no picture of it is drawn. The store keeps it sealed.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::{new_name, required};
use super::render;
use super::users;
use super::work::{Facts, Reply, Work};
use crate::auth::totp::Seed;
use crate::crypto::Purpose;
use crate::crypto::sealed::seal;
use crate::directory::entity::{Device, Entity, Holder, User, of_account};
use crate::store::Change;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use zeroize::Zeroizing;

/// One for each user and some to spare.
const DEVICES_MAX: usize = 10_000;
/// AWS's quota.
const DEVICES_OF_USER_MAX: usize = 8;
/// How far a device's clock may be off when it is set up, in steps of thirty seconds, and when it is set up anew.
const ENABLE_STEPS: i64 = 1;
const RESYNC_STEPS: i64 = 120;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = new_name(&work.input.device_name, "virtualMFADeviceName", 226)?;
    work.input.no_path()?;
    work.allow::<Device>(name, &Facts::default())?;
    work.room_for::<Device>(name, DEVICES_MAX)?;
    let serial = Device::arn(work.account, name);
    let seed = Seed::generate().map_err(|_| Refusal::internal())?;
    let sealed = seal(&work.judge.node.root(), Purpose::MfaSeed, &serial, seed.expose());
    let sealed = sealed.map_err(|_| Refusal::internal())?;
    let mut body = Zeroizing::new(String::with_capacity(1_024));
    body.push_str(&format!("{{\"VirtualMFADevice\":{{\"SerialNumber\":\"{serial}\",\"Base32StringSeed\":\""));
    STANDARD.encode_string(seed.expose_base32().as_bytes(), &mut body);
    body.push_str("\"}}");
    let device = Device { device_name: name.to_owned(), holder: None, drift_steps: 0, seed: Some(Arc::new(seed)) };
    work.put(device, Some(sealed));
    let recorded = json!({"virtualMFADevice": {"serialNumber": serial}});
    Ok(Reply { body: Bytes::from_owner(body), recorded: Some(recorded) })
}

pub(super) fn enable(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = required(&work.input.user_name, "userName")?;
    let serial = required(&work.input.serial_number, "serialNumber")?;
    users::allow(work, name)?;
    let user = work.existing::<User>(name)?;
    let device = changeable(work, serial)?;
    if device.holder.is_some() {
        let text = format!("MFA Device with serial number {serial} is already assigned to a user.");
        return Err(Refusal::new(RefusalKind::EntityAlreadyExists, text));
    }
    if of_user_named(work, name).len() >= DEVICES_OF_USER_MAX {
        let text = format!("Cannot exceed quota for MFADevicesPerUser: {DEVICES_OF_USER_MAX}");
        return Err(Refusal::new(RefusalKind::LimitExceeded, text));
    }
    let drift_steps = prove(work, serial, &device, ENABLE_STEPS)?;
    let holder = Holder { user_name: name.to_owned(), user_id: user.user_id.clone(), enabled_us: work.now_us() };
    work.put(Device { holder: Some(holder), drift_steps, ..(*device).clone() }, None);
    Ok(Reply::nothing())
}

pub(super) fn resync(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let device = held(work)?;
    let serial = Device::arn(work.account, &device.device_name);
    let drift_steps = prove(work, &serial, &device, RESYNC_STEPS)?;
    work.put(Device { drift_steps, ..(*device).clone() }, None);
    Ok(Reply::nothing())
}

pub(super) fn deactivate(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let device = held(work)?;
    work.put(Device { holder: None, ..(*device).clone() }, None);
    Ok(Reply::nothing())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let serial = required(&work.input.serial_number, "serialNumber")?;
    work.allow_on(serial, Device::TYPE, &Facts::default())?;
    let device = changeable(work, serial)?;
    if device.holder.is_some() {
        let text = "MFA VirtualDevice in use. Must deactivate first.";
        return Err(Refusal::new(RefusalKind::DeleteConflict, text));
    }
    work.remove::<Device>(&device.device_name);
    Ok(Reply::nothing())
}

pub(super) fn of_user(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = work.user_name_or_caller()?;
    users::allow(work, &name)?;
    work.existing::<User>(&name)?;
    let entries: Vec<(String, Value)> = of_user_named(work, &name)
        .iter()
        .filter_map(|device| Some((device.device_name.clone(), render::device(work.account, device)?)))
        .collect();
    Ok(work.page("MFADevices", entries)?.into())
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    work.allow_listing::<Device>()?;
    let wanted = match work.input.assignment_status.as_deref() {
        None | Some("Any") => None,
        Some("Assigned") => Some(true),
        Some("Unassigned") => Some(false),
        Some(other) => {
            let constraint = "Member must satisfy enum value set: [Assigned, Unassigned, Any]";
            return Err(Refusal::constraint(Some(other), "assignmentStatus", constraint));
        }
    };
    let devices = work.all::<Device>();
    let found = devices.iter().filter(|device| wanted.is_none_or(|assigned| device.holder.is_some() == assigned));
    let entries: Vec<(String, Value)> = found
        .map(|device| {
            let mut answer = json!({"SerialNumber": Device::arn(work.account, &device.device_name)});
            if let Some(holder) = &device.holder {
                if let Some(user) = work.find::<User>(&holder.user_name) {
                    answer["User"] = render::user(work.account, &user);
                }
                answer["EnableDate"] = crate::key::rfc3339_seconds(holder.enabled_us).into();
            }
            (device.device_name.clone(), answer)
        })
        .collect();
    Ok(work.page("VirtualMFADevices", entries)?.into())
}

/// The device of a serial number, to be changed.
fn changeable(work: &Work<'_, '_>, serial: &str) -> Result<Arc<Device>, Refusal> {
    let name = serial.strip_prefix(&Device::arn(work.account, ""));
    let missing = || {
        let text = format!("VirtualMFADevice with serial number {serial} doesn't exist.");
        Refusal::new(RefusalKind::NoSuchEntity, text)
    };
    let name = name.filter(|name| work.find::<Device>(name).is_some()).ok_or_else(missing)?;
    work.changeable::<Device>(name)
}

/// The device of a serial number that this user has, after the caller was asked about the user.
fn held(work: &mut Work<'_, '_>) -> Result<Arc<Device>, Refusal> {
    let name = work.user_name_or_caller()?;
    let serial = required(&work.input.serial_number, "serialNumber")?;
    users::allow(work, &name)?;
    let device = changeable(work, serial)?;
    match &device.holder {
        Some(holder) if holder.user_name == name => Ok(device),
        _ => {
            let text = format!("MFA device with serial number {serial} is not assigned to {name}.");
            Err(Refusal::new(RefusalKind::NoSuchEntity, text))
        }
    }
}

fn of_user_named(work: &Work<'_, '_>, name: &str) -> Vec<Arc<Device>> {
    let held = |device: &Device| device.holder.as_ref().is_some_and(|holder| holder.user_name == name);
    let all = [work.stored(), work.in_file()].into_iter().flat_map(|all| of_account::<Device>(all, work.account));
    all.filter(|device| held(device)).cloned().collect()
}

/// Two codes in a row prove that someone has the device; gives how far its clock is off. Both codes are used up.
fn prove(work: &mut Work<'_, '_>, serial: &str, device: &Device, steps_max: i64) -> Result<i64, Refusal> {
    let wrong = || Refusal::new(RefusalKind::InvalidAuthenticationCode, "Authentication code for device is not valid.");
    let (Some(first), Some(second)) = (&work.input.authentication_code1, &work.input.authentication_code2) else {
        return Err(Refusal::missing("authenticationCode1"));
    };
    let seed = device.seed.as_ref().ok_or_else(wrong)?;
    let (step, drift_steps) =
        seed.enrolled(first.expose(), second.expose(), work.now_us(), steps_max).ok_or_else(wrong)?;
    work.judge.node.codes.used(serial, step);
    work.changes.push(Change::SetMfaStep(serial.to_owned(), step));
    Ok(drift_steps)
}
