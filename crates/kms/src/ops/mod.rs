//! The operations, free of HTTP: each takes a typed input and a judge, and leaves exactly one event.
//!
//! `drive` holds the two paths, one for calls that change nothing and one for changes; `judge` decides; `record`
//! writes the event. To add an operation: an input struct, an implementation of `Query` or `Mutation` in its own file,
//! a line in `dispatch`, its row in docs/event.md, a denial test.

pub(crate) mod input;
pub(crate) mod record;
pub(crate) mod refusal;

mod alias;
mod announced_change;
mod answer;
mod approval;
mod authorize_query;
mod caller_identity;
mod companion;
mod connect_key_store;
mod create_grant;
mod create_key;
mod create_key_store;
mod data_key_pair;
mod decrypt;
mod delete_key;
mod delete_material;
mod deletion;
mod denial;
mod describe_key;
mod describe_key_stores;
mod description;
mod drive;
mod dual_control;
mod due;
mod enable;
mod encrypt;
mod end_grant;
mod expire_material;
mod export_evidence;
mod frames;
mod generate_data_key;
mod get_usage;
mod iam;
mod import;
mod internal;
pub(crate) mod judge;
mod key_policy;
mod key_store;
mod last_usage;
mod list_grants;
mod list_keys;
mod load_identities;
mod log;
mod lookup_events;
mod mac;
mod mfa_requirement;
mod overlay_input;
mod primary_region;
mod public_key;
mod quarantine;
mod random;
mod re_encrypt;
mod record_incident;
mod replicate_key;
mod reseal;
mod responder_reports;
mod restore_alias;
mod restore_policy;
mod retire;
mod root_key;
mod rotate_key;
mod rotation;
mod run_query;
mod service_event;
mod service_key;
mod shared_secret;
mod sign;
mod sts;
mod synchronize;
mod tags;
#[cfg(feature = "testing")]
pub(crate) mod typed;
mod update_key_store;
mod withdraw_key;
mod witnessed;

pub(crate) use answer::{ActionId, Answer, Call, CallerKey, OnBehalf};
pub(crate) use approval::{APPROVAL_ROW, loaded_approvals};
pub(crate) use connect_key_store::connect as connect_key_store;
pub(crate) use connect_key_store::note as note_key_store;
pub(crate) use describe_key::alias_of;
pub(crate) use drive::{Mutation, change, refuse, refuse_unknown, submit_committed};
pub(crate) use due::make_due_changes;
pub(crate) use export_evidence::ExportEvidence;
#[cfg(test)]
pub(crate) use iam::operations as iam_operations;
pub use load_identities::LoadError;
pub(crate) use load_identities::load_identities;
pub(crate) use quarantine::LiftQuarantine;
pub(crate) use reseal::note_seal;
pub(crate) use retire::{RETIREMENT_ROW, advance_retirements, loaded_retirements};
pub use root_key::NotRotated;
pub(crate) use root_key::{Rotated, end_former_tokens, rotate_root_key};
pub(crate) use service_key::only_looks as looks_at_service_key;
pub(crate) use sts::tag_named;
pub(crate) use witnessed::witnessed;

use crate::event::{SOURCE_CLOUDTRAIL, SOURCE_IAM, SOURCE_INTERNAL, SOURCE_KMS, SOURCE_STS};
use crate::node::Node;
use drive::{mutation, query};
use refusal::{Refusal, RefusalKind};
use std::sync::Arc;

/// Prefix of `X-Amz-Target` for AWS's operations.
const KMS_TARGET: &str = "TrentService.";
/// Prefix of `X-Amz-Target` for Keytrail's own.
const OWN_TARGET: &str = "KeytrailService.";
/// Prefix of `X-Amz-Target` for CloudTrail's.
const CLOUDTRAIL_TARGET: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.";

/// AWS's operations that this node does not have yet; named, so that a caller learns the difference to a typing error.
const UNSUPPORTED: &[&str] = &["Decapsulate", "Encapsulate"];

/// Event source and operation name of a target; an unreadable one gives a name that no operation has.
pub(crate) fn split_target(target: &str) -> (&'static str, &str) {
    const SERVICES: [(&str, &str); 3] =
        [(KMS_TARGET, SOURCE_KMS), (OWN_TARGET, SOURCE_INTERNAL), (CLOUDTRAIL_TARGET, SOURCE_CLOUDTRAIL)];
    let named = SERVICES.iter().find_map(|(prefix, source)| Some((*source, target.strip_prefix(prefix)?)));
    let (source, name) = named.unwrap_or((SOURCE_KMS, ""));
    // The name goes into the log: a stranger's text must not.
    let sane = (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (source, if sane { name } else { "Unknown" })
}

/// Runs one authenticated call of the JSON protocol.
pub(crate) async fn dispatch(node: &Arc<Node>, call: Arc<Call>, body: &[u8]) -> Answer {
    match (call.source, call.operation.as_str()) {
        (SOURCE_KMS, "CreateKey") => mutation::<create_key::CreateKey>(node, call, body).await,
        (SOURCE_KMS, "DescribeKey") => query::<describe_key::DescribeKey>(node, &call, body).await,
        (SOURCE_KMS, "ListKeys") => query::<list_keys::ListKeys>(node, &call, body).await,
        (SOURCE_KMS, "Encrypt") => query::<encrypt::Encrypt>(node, &call, body).await,
        (SOURCE_KMS, "Decrypt") => query::<decrypt::Decrypt>(node, &call, body).await,
        (SOURCE_KMS, "GenerateDataKey") => query::<generate_data_key::GenerateDataKey>(node, &call, body).await,
        (SOURCE_KMS, "GenerateDataKeyWithoutPlaintext") => {
            query::<generate_data_key::GenerateDataKeyWithoutPlaintext>(node, &call, body).await
        }
        (SOURCE_KMS, "GenerateDataKeyPair") => query::<data_key_pair::GenerateDataKeyPair>(node, &call, body).await,
        (SOURCE_KMS, "GenerateDataKeyPairWithoutPlaintext") => {
            query::<data_key_pair::GenerateDataKeyPairWithoutPlaintext>(node, &call, body).await
        }
        (SOURCE_KMS, "ReEncrypt") => query::<re_encrypt::ReEncrypt>(node, &call, body).await,
        (SOURCE_KMS, "Sign") => query::<sign::Sign>(node, &call, body).await,
        (SOURCE_KMS, "Verify") => query::<sign::Verify>(node, &call, body).await,
        (SOURCE_KMS, "GetPublicKey") => query::<public_key::GetPublicKey>(node, &call, body).await,
        (SOURCE_KMS, "GenerateMac") => query::<mac::GenerateMac>(node, &call, body).await,
        (SOURCE_KMS, "VerifyMac") => query::<mac::VerifyMac>(node, &call, body).await,
        (SOURCE_KMS, "DeriveSharedSecret") => query::<shared_secret::DeriveSharedSecret>(node, &call, body).await,
        (SOURCE_KMS, "GenerateRandom") => query::<random::GenerateRandom>(node, &call, body).await,
        (SOURCE_KMS, "EnableKey") => mutation::<enable::EnableKey>(node, call, body).await,
        (SOURCE_KMS, "DisableKey") => mutation::<enable::DisableKey>(node, call, body).await,
        (SOURCE_KMS, "ScheduleKeyDeletion") => mutation::<deletion::ScheduleKeyDeletion>(node, call, body).await,
        (SOURCE_KMS, "CancelKeyDeletion") => mutation::<deletion::CancelKeyDeletion>(node, call, body).await,
        (SOURCE_KMS, "ReplicateKey") => mutation::<replicate_key::ReplicateKey>(node, call, body).await,
        (SOURCE_KMS, "UpdatePrimaryRegion") => mutation::<primary_region::UpdatePrimaryRegion>(node, call, body).await,
        (SOURCE_KMS, "EnableKeyRotation") => mutation::<rotation::EnableKeyRotation>(node, call, body).await,
        (SOURCE_KMS, "DisableKeyRotation") => mutation::<rotation::DisableKeyRotation>(node, call, body).await,
        (SOURCE_KMS, "RotateKeyOnDemand") => mutation::<rotation::RotateKeyOnDemand>(node, call, body).await,
        (SOURCE_KMS, "GetKeyRotationStatus") => query::<rotation::GetKeyRotationStatus>(node, &call, body).await,
        (SOURCE_KMS, "ListKeyRotations") => query::<rotation::ListKeyRotations>(node, &call, body).await,
        (SOURCE_KMS, "GetParametersForImport") => query::<import::GetParametersForImport>(node, &call, body).await,
        (SOURCE_KMS, "ImportKeyMaterial") => mutation::<import::ImportKeyMaterial>(node, call, body).await,
        (SOURCE_KMS, "DeleteImportedKeyMaterial") => {
            mutation::<delete_material::DeleteImportedKeyMaterial>(node, call, body).await
        }
        (SOURCE_KMS, "GetKeyLastUsage") => query::<last_usage::GetKeyLastUsage>(node, &call, body).await,
        (SOURCE_KMS, "CreateAlias") => mutation::<alias::CreateAlias>(node, call, body).await,
        (SOURCE_KMS, "UpdateAlias") => mutation::<alias::UpdateAlias>(node, call, body).await,
        (SOURCE_KMS, "DeleteAlias") => mutation::<alias::DeleteAlias>(node, call, body).await,
        (SOURCE_KMS, "ListAliases") => query::<alias::ListAliases>(node, &call, body).await,
        (SOURCE_KMS, "GetKeyPolicy") => query::<key_policy::GetKeyPolicy>(node, &call, body).await,
        (SOURCE_KMS, "PutKeyPolicy") => mutation::<key_policy::PutKeyPolicy>(node, call, body).await,
        (SOURCE_KMS, "ListKeyPolicies") => query::<key_policy::ListKeyPolicies>(node, &call, body).await,
        (SOURCE_KMS, "UpdateKeyDescription") => mutation::<description::UpdateKeyDescription>(node, call, body).await,
        (SOURCE_KMS, "TagResource") => mutation::<tags::TagResource>(node, call, body).await,
        (SOURCE_KMS, "UntagResource") => mutation::<tags::UntagResource>(node, call, body).await,
        (SOURCE_KMS, "ListResourceTags") => query::<tags::ListResourceTags>(node, &call, body).await,
        (SOURCE_KMS, "CreateGrant") => mutation::<create_grant::CreateGrant>(node, call, body).await,
        (SOURCE_KMS, "ListGrants") => query::<list_grants::ListGrants>(node, &call, body).await,
        (SOURCE_KMS, "ListRetirableGrants") => query::<list_grants::ListRetirableGrants>(node, &call, body).await,
        (SOURCE_KMS, "RetireGrant") => mutation::<end_grant::RetireGrant>(node, call, body).await,
        (SOURCE_KMS, "RevokeGrant") => mutation::<end_grant::RevokeGrant>(node, call, body).await,
        (SOURCE_KMS, "CreateCustomKeyStore") => {
            mutation::<create_key_store::CreateCustomKeyStore>(node, call, body).await
        }
        (SOURCE_KMS, "DescribeCustomKeyStores") => {
            query::<describe_key_stores::DescribeCustomKeyStores>(node, &call, body).await
        }
        (SOURCE_KMS, "ConnectCustomKeyStore") => {
            mutation::<connect_key_store::ConnectCustomKeyStore>(node, call, body).await
        }
        (SOURCE_KMS, "DisconnectCustomKeyStore") => {
            mutation::<connect_key_store::DisconnectCustomKeyStore>(node, call, body).await
        }
        (SOURCE_KMS, "UpdateCustomKeyStore") => {
            mutation::<update_key_store::UpdateCustomKeyStore>(node, call, body).await
        }
        (SOURCE_KMS, "DeleteCustomKeyStore") => {
            mutation::<update_key_store::DeleteCustomKeyStore>(node, call, body).await
        }
        (SOURCE_INTERNAL, "PutQuarantine") => mutation::<quarantine::PutQuarantine>(node, call, body).await,
        (SOURCE_INTERNAL, "LiftQuarantine") => mutation::<LiftQuarantine>(node, call, body).await,
        (SOURCE_INTERNAL, "ListQuarantines") => query::<quarantine::ListQuarantines>(node, &call, body).await,
        (SOURCE_INTERNAL, "RestoreKeyPolicy") => mutation::<restore_policy::RestoreKeyPolicy>(node, call, body).await,
        (SOURCE_INTERNAL, "RestoreAlias") => mutation::<restore_alias::RestoreAlias>(node, call, body).await,
        (SOURCE_INTERNAL, "PutMfaRequirement") => {
            mutation::<mfa_requirement::PutMfaRequirement>(node, call, body).await
        }
        (SOURCE_INTERNAL, "LiftMfaRequirement") => {
            mutation::<mfa_requirement::LiftMfaRequirement>(node, call, body).await
        }
        (SOURCE_INTERNAL, "ListMfaRequirements") => {
            query::<mfa_requirement::ListMfaRequirements>(node, &call, body).await
        }
        (SOURCE_INTERNAL, "DeactivateAccessKey") => {
            mutation::<withdraw_key::DeactivateAccessKey>(node, call, body).await
        }
        (SOURCE_INTERNAL, "ActivateAccessKey") => mutation::<withdraw_key::ActivateAccessKey>(node, call, body).await,
        (SOURCE_INTERNAL, "ListDeactivatedAccessKeys") => {
            query::<withdraw_key::ListDeactivatedAccessKeys>(node, &call, body).await
        }
        (SOURCE_INTERNAL, "Approve") => mutation::<approval::Approve>(node, call, body).await,
        (SOURCE_INTERNAL, "Reject") => mutation::<approval::Reject>(node, call, body).await,
        (SOURCE_INTERNAL, "ListApprovalRequests") => query::<approval::ListApprovalRequests>(node, &call, body).await,
        (SOURCE_INTERNAL, "DescribeApprovalRequest") => {
            query::<approval::DescribeApprovalRequest>(node, &call, body).await
        }
        (SOURCE_INTERNAL, "OpenApprovalRequest") => mutation::<approval::OpenApprovalRequest>(node, call, body).await,
        (SOURCE_INTERNAL, "ConsumeApprovalRequest") => {
            mutation::<approval::ConsumeApprovalRequest>(node, call, body).await
        }
        (SOURCE_INTERNAL, "RetireKey") => mutation::<retire::RetireKey>(node, call, body).await,
        (SOURCE_INTERNAL, "CancelRetirement") => mutation::<retire::CancelRetirement>(node, call, body).await,
        (SOURCE_INTERNAL, "ListRetirements") => query::<retire::ListRetirements>(node, &call, body).await,
        (SOURCE_INTERNAL, "AnnounceChange") => mutation::<announced_change::AnnounceChange>(node, call, body).await,
        (SOURCE_INTERNAL, "WithdrawChange") => mutation::<announced_change::WithdrawChange>(node, call, body).await,
        (SOURCE_INTERNAL, "ListChanges") => query::<announced_change::ListChanges>(node, &call, body).await,
        (SOURCE_INTERNAL, "ReportResponder") => query::<responder_reports::ReportResponder>(node, &call, body).await,
        (SOURCE_INTERNAL, "CountKeys") => query::<responder_reports::CountKeys>(node, &call, body).await,
        (SOURCE_INTERNAL, "GetCheckpoint") => query::<frames::GetCheckpoint>(node, &call, body).await,
        (SOURCE_INTERNAL, "GetFrames") => query::<frames::GetFrames>(node, &call, body).await,
        (SOURCE_INTERNAL, "ReportLanded") => query::<log::ReportLanded>(node, &call, body).await,
        (SOURCE_INTERNAL, "RunQuery") => query::<run_query::RunQuery>(node, &call, body).await,
        (SOURCE_INTERNAL, "EndQuery") => query::<run_query::EndQuery>(node, &call, body).await,
        (SOURCE_INTERNAL, "RecordIncident") => query::<record_incident::RecordIncident>(node, &call, body).await,
        (SOURCE_INTERNAL, "GetUsage") => query::<get_usage::GetUsage>(node, &call, body).await,
        (SOURCE_INTERNAL, "AuthorizeQuery") => authorize_query::authorize_query(node, &call, body).await,
        (SOURCE_INTERNAL, "EraseRecords") => mutation::<log::EraseRecords>(node, call, body).await,
        (SOURCE_INTERNAL, "ExportEvidence") => mutation::<ExportEvidence>(node, call, body).await,
        (SOURCE_CLOUDTRAIL, "LookupEvents") => query::<lookup_events::LookupEvents>(node, &call, body).await,
        (SOURCE_KMS, name) if UNSUPPORTED.contains(&name) => {
            let text = format!("{name} is not supported by this node");
            refuse(node, &call, Refusal::new(RefusalKind::UnsupportedOperation, text)).await
        }
        _ => refuse(node, &call, Refusal::bare(RefusalKind::UnknownOperation)).await,
    }
}

/// The one operation whose caller proves itself by a token in the body.
pub(crate) const WITH_WEB_IDENTITY: &str = "AssumeRoleWithWebIdentity";

/// Runs AssumeRoleWithWebIdentity for someone not known yet.
pub(crate) async fn assume_with_web_identity(node: &Arc<Node>, stranger: Call, body: &[u8]) -> Answer {
    sts::assume_with_web_identity(node, stranger, body).await
}

/// Runs one authenticated call of the query protocol; `body` is its form as JSON.
pub(crate) async fn dispatch_query(node: &Arc<Node>, call: Arc<Call>, body: &[u8]) -> Answer {
    match (call.source, call.operation.as_str()) {
        (SOURCE_STS, "GetCallerIdentity") => query::<caller_identity::GetCallerIdentity>(node, &call, body).await,
        (SOURCE_STS, "GetAccessKeyInfo") => query::<sts::GetAccessKeyInfo>(node, &call, body).await,
        (SOURCE_STS, "AssumeRole") => sts::open::<sts::AssumeRole>(node, call, body).await,
        (SOURCE_STS, "GetSessionToken") => sts::open::<sts::GetSessionToken>(node, call, body).await,
        (SOURCE_IAM, _) => iam::run(node, call, body).await,
        (_, name) => {
            let text = format!("Could not find operation {name} for version 2011-06-15");
            refuse(node, &call, Refusal::new(RefusalKind::UnknownOperation, text)).await
        }
    }
}
