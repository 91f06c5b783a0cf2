//! Each operation's input by itself: for the fuzz targets, which have no node to run a call on. Only with feature
//! `testing`; a test compares this list with `dispatch`.

use super::drive::{Mutation, Query};
use super::input;
use super::*;

/// Reads a body as the input of one operation and gives what it would record.
macro_rules! read {
    ($body:expr, $kind:ident: $($input:ty),* $(,)?) => {
        vec![$(input::parse::<$input>($body).ok().map(|input| $kind::parameters(&input).unwrap_or_default())),*]
    };
}

/// What each operation of the JSON protocol makes of a body; nothing where it refuses it.
pub(crate) fn json(body: &[u8]) -> Vec<Option<serde_json::Value>> {
    let mut read = read!(body, Query:
        describe_key::DescribeKey, list_keys::ListKeys, encrypt::Encrypt, decrypt::Decrypt,
        generate_data_key::GenerateDataKey, generate_data_key::GenerateDataKeyWithoutPlaintext,
        data_key_pair::GenerateDataKeyPair, data_key_pair::GenerateDataKeyPairWithoutPlaintext, re_encrypt::ReEncrypt,
        sign::Sign, sign::Verify, public_key::GetPublicKey, mac::GenerateMac, mac::VerifyMac,
        shared_secret::DeriveSharedSecret, random::GenerateRandom, rotation::GetKeyRotationStatus,
        rotation::ListKeyRotations, import::GetParametersForImport, last_usage::GetKeyLastUsage, alias::ListAliases,
        key_policy::GetKeyPolicy, key_policy::ListKeyPolicies, tags::ListResourceTags, list_grants::ListGrants,
        list_grants::ListRetirableGrants, quarantine::ListQuarantines, mfa_requirement::ListMfaRequirements,
        withdraw_key::ListDeactivatedAccessKeys, frames::GetCheckpoint, frames::GetFrames, log::ReportLanded,
        run_query::RunQuery, run_query::EndQuery, approval::ListApprovalRequests, approval::DescribeApprovalRequest,
        retire::ListRetirements, record_incident::RecordIncident, get_usage::GetUsage,
        announced_change::ListChanges, responder_reports::ReportResponder, responder_reports::CountKeys,
        describe_key_stores::DescribeCustomKeyStores, lookup_events::LookupEvents,
    );
    read.extend(read!(body, Mutation:
        create_key::CreateKey, enable::EnableKey, enable::DisableKey, deletion::ScheduleKeyDeletion,
        deletion::CancelKeyDeletion, rotation::EnableKeyRotation, rotation::DisableKeyRotation,
        rotation::RotateKeyOnDemand, import::ImportKeyMaterial, delete_material::DeleteImportedKeyMaterial, alias::CreateAlias,
        alias::UpdateAlias, alias::DeleteAlias, key_policy::PutKeyPolicy, description::UpdateKeyDescription,
        tags::TagResource, tags::UntagResource, create_grant::CreateGrant, end_grant::RetireGrant,
        end_grant::RevokeGrant, quarantine::PutQuarantine, LiftQuarantine, log::EraseRecords, ExportEvidence, restore_policy::RestoreKeyPolicy,
        restore_alias::RestoreAlias, mfa_requirement::PutMfaRequirement, mfa_requirement::LiftMfaRequirement,
        withdraw_key::DeactivateAccessKey, withdraw_key::ActivateAccessKey,
        replicate_key::ReplicateKey, primary_region::UpdatePrimaryRegion,
        create_key_store::CreateCustomKeyStore, connect_key_store::ConnectCustomKeyStore,
        connect_key_store::DisconnectCustomKeyStore, update_key_store::UpdateCustomKeyStore,
        update_key_store::DeleteCustomKeyStore, approval::Approve, approval::Reject, approval::OpenApprovalRequest,
        approval::ConsumeApprovalRequest, retire::RetireKey, retire::CancelRetirement,
        announced_change::AnnounceChange, announced_change::WithdrawChange,
    ));
    read
}

/// What the services of the query protocol make of a form's JSON: how many inputs take it.
pub(crate) fn form(body: &[u8]) -> usize {
    usize::from(iam::records(body).is_some()) + sts::records(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_dispatch_is_read() {
        let source = include_str!("mod.rs");
        let dispatch = source.split("async fn dispatch(").nth(1).and_then(|rest| rest.split("\n}\n").next());
        let listed = dispatch.map_or(0, |text| text.matches("query::<").count() + text.matches("mutation::<").count());
        assert_eq!(json(b"{}").len(), listed);
    }
}
