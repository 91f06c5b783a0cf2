//! The control files that come with the command, compiled in. A test keeps the list complete.

macro_rules! shipped {
    ($path:literal) => {
        ($path, include_str!(concat!("../../../../controls/", $path)))
    };
}

/// The control sets, named as their folders.
pub const SETS: [&str; 5] = ["hipaa", "iso27001", "nist-800-53", "pci-dss-4", "soc2"];

/// Folder of the queries that clauses refer to.
pub(super) const QUERIES: &str = "queries";

/// Path below `controls/` and text of each file.
pub(super) const FILES: &[(&str, &str)] = &[
    shipped!("hipaa/164.312-a-2-iv.sql"),
    shipped!("hipaa/164.312-b.sql"),
    shipped!("hipaa/164.312-c.sql"),
    shipped!("hipaa/164.312-d.sql"),
    shipped!("hipaa/164.316-b.sql"),
    shipped!("iso27001/A.5.28.sql"),
    shipped!("iso27001/A.5.33.sql"),
    shipped!("iso27001/A.8.15.sql"),
    shipped!("iso27001/A.8.16.sql"),
    shipped!("iso27001/A.8.17.sql"),
    shipped!("iso27001/A.8.24.sql"),
    shipped!("nist-800-53/AC-6.sql"),
    shipped!("nist-800-53/AU-10.sql"),
    shipped!("nist-800-53/AU-11.sql"),
    shipped!("nist-800-53/AU-12.sql"),
    shipped!("nist-800-53/AU-2.sql"),
    shipped!("nist-800-53/AU-3.sql"),
    shipped!("nist-800-53/AU-4.sql"),
    shipped!("nist-800-53/AU-5.sql"),
    shipped!("nist-800-53/AU-6.sql"),
    shipped!("nist-800-53/AU-7.sql"),
    shipped!("nist-800-53/AU-8.sql"),
    shipped!("nist-800-53/AU-9-2.sql"),
    shipped!("nist-800-53/AU-9-3.sql"),
    shipped!("nist-800-53/AU-9.sql"),
    shipped!("nist-800-53/SC-12.sql"),
    shipped!("nist-800-53/SC-13.sql"),
    shipped!("nist-800-53/SP-800-57.sql"),
    shipped!("pci-dss-4/10.2.1.1.sql"),
    shipped!("pci-dss-4/10.2.1.2.sql"),
    shipped!("pci-dss-4/10.2.1.3.sql"),
    shipped!("pci-dss-4/10.2.1.4.sql"),
    shipped!("pci-dss-4/10.2.1.5.sql"),
    shipped!("pci-dss-4/10.2.1.6.sql"),
    shipped!("pci-dss-4/10.2.1.7.sql"),
    shipped!("pci-dss-4/10.2.2.sql"),
    shipped!("pci-dss-4/10.3.2.sql"),
    shipped!("pci-dss-4/10.3.3.sql"),
    shipped!("pci-dss-4/10.3.4.sql"),
    shipped!("pci-dss-4/10.4.1.1.sql"),
    shipped!("pci-dss-4/10.4.3.sql"),
    shipped!("pci-dss-4/10.5.1.sql"),
    shipped!("pci-dss-4/10.6.sql"),
    shipped!("pci-dss-4/10.7.2.sql"),
    shipped!("pci-dss-4/10.7.3.sql"),
    shipped!("pci-dss-4/3.6.1.3.sql"),
    shipped!("pci-dss-4/3.6.1.sql"),
    shipped!("pci-dss-4/3.7.1.sql"),
    shipped!("pci-dss-4/3.7.4.sql"),
    shipped!("pci-dss-4/3.7.5.sql"),
    shipped!("pci-dss-4/3.7.6.sql"),
    shipped!("pci-dss-4/3.7.7.sql"),
    shipped!("queries/access-changes.sql"),
    shipped!("queries/admin-without-mfa.sql"),
    shipped!("queries/algorithms.sql"),
    shipped!("queries/attributed.sql"),
    shipped!("queries/capacity.sql"),
    shipped!("queries/clock.sql"),
    shipped!("queries/config-changes.sql"),
    shipped!("queries/credential-changes.sql"),
    shipped!("queries/cryptoperiod.sql"),
    shipped!("queries/detections.sql"),
    shipped!("queries/effective-access.sql"),
    shipped!("queries/event-catalogue.sql"),
    shipped!("queries/events-recorded.sql"),
    shipped!("queries/halts-and-gaps.sql"),
    shipped!("queries/imports.sql"),
    shipped!("queries/key-custodians.sql"),
    shipped!("queries/key-inventory.sql"),
    shipped!("queries/key-states.sql"),
    shipped!("queries/keys-created.sql"),
    shipped!("queries/keys-destroyed.sql"),
    shipped!("queries/log-copies.sql"),
    shipped!("queries/log-fields.sql"),
    shipped!("queries/log-integrity.sql"),
    shipped!("queries/log-readers.sql"),
    shipped!("queries/log-starts.sql"),
    shipped!("queries/readable.sql"),
    shipped!("queries/responses.sql"),
    shipped!("queries/retention.sql"),
    shipped!("queries/substitutions.sql"),
    shipped!("queries/tagged-decrypts.sql"),
    shipped!("soc2/CC6.1.sql"),
    shipped!("soc2/CC6.2.sql"),
    shipped!("soc2/CC6.3.sql"),
    shipped!("soc2/CC7.2.sql"),
    shipped!("soc2/CC7.3.sql"),
    shipped!("soc2/CC7.4.sql"),
    shipped!("soc2/CC8.1.sql"),
];

/// Names (without `.sql`) and texts of the files in a folder.
pub(super) fn folder(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(move |(path, text)| {
        let (folder, file) = path.split_once('/')?;
        (folder == name).then(|| (file.trim_end_matches(".sql"), *text))
    })
}
