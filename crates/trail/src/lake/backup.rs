//! What a copy of the lake needs: the commits that are there, and the files that are the lake after them.

use super::LakeError;
use super::commit::{Commit, commits_folder, parse};
use super::imported;
use super::store::{Store, names, numbers};
use std::collections::BTreeSet;
use std::path::Path;

/// Paths below the lake folder, to be copied in any order. Files that a later commit replaces stay for a day, so that a
/// copy finds them; commit snapshots are left out, as the commits say the same.
pub fn committed(root: &Path) -> Result<Vec<String>, LakeError> {
    let store = Store::at(root);
    // Commits before marks: whatever is committed to is marked.
    let logs = store.logs()?;
    let mut paths: Vec<String> =
        imported::logs(root)?.iter().map(|log| format!("{}/{log}", imported::FOLDER)).collect();
    for log in logs {
        let folder = commits_folder(log);
        let mut files = BTreeSet::new();
        let (commits, _) = numbers(&names(&root.join(&folder))?);
        for n in commits {
            let path = format!("{folder}/{}", super::commit::commit_name(n));
            let io = |source| LakeError::Io { step: "read", path: root.join(&path), source };
            let bytes = std::fs::read(root.join(&path)).map_err(io)?;
            // The newest may be half written; the records land again from the journal.
            let Ok(commit) = parse::<Commit>(&bytes) else { break };
            files.extend(commit.adds.into_iter().map(|file| file.path));
            files.extend(commit.retention.and_then(|retention| retention.kept).map(|kept| kept.path));
            commit.removes.iter().for_each(|removed| {
                files.remove(removed);
            });
            paths.push(path);
        }
        paths.extend(files);
    }
    Ok(paths)
}
