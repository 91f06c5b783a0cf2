//! Imported material: which of it a key has had, which of it is here, and which comes next.
//!
//! A symmetric key of one region can have several: one that encrypts, former ones, which decrypt, and one that waits for its
//! rotation. The key works while the current and all former ones are here. What waits is not the key's for good: deleted, it
//! is forgotten. All other keys keep the one material that was imported first, here or away.

use super::{KeyRecord, KeyState, Material};
use crate::crypto::MaterialId;
use crate::spec::{Origin, RotationType};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};

/// One imported material beside the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Import {
    /// Its id.
    pub id: MaterialId,
    /// When it ends by itself, in Unix microseconds; none while it is away.
    pub valid_to_us: Option<u64>,
    /// What its owner says of it, and when it became current.
    pub about: About,
}

/// What is known of imported material, here or away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct About {
    /// Its owner's words.
    pub description: Option<Box<str>>,
    /// When a rotation made it the current one, in Unix microseconds; none for the first.
    pub rotated_us: Option<u64>,
}

/// What a key's record has besides the current material and its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Imports {
    /// Of the current one.
    pub current: About,
    /// What was current before, oldest first.
    pub former: Vec<Import>,
    /// What waits for its rotation.
    pub pending: Option<Import>,
}

impl Imports {
    /// Of a key that has one material at most, of which nothing was said; all such keys share it.
    pub fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<Imports>> = LazyLock::new(Arc::default);
        Arc::clone(&NONE)
    }
}

/// What a material is to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaterialState {
    /// It encrypts and decrypts.
    Current,
    /// It decrypts.
    Former,
    /// It waits for its rotation.
    Pending,
}

impl MaterialState {
    /// AWS's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "CURRENT",
            Self::Former => "NON_CURRENT",
            Self::Pending => "PENDING_ROTATION",
        }
    }
}

impl KeyRecord {
    /// Whether its owner can import one material after the other.
    pub fn takes_several_imports(&self) -> bool {
        self.kind.is_symmetric_encryption() && self.kind.origin == Origin::External && self.family.is_none()
    }

    /// All that was imported and counts, oldest first: what waits for its rotation is the last.
    pub fn imported(&self) -> Vec<(MaterialState, Import)> {
        let state = |state| move |import| (state, import);
        let about = self.imports.current.clone();
        let current = self.current.map(|id| Import { id, valid_to_us: self.valid_to_us, about });
        let former = self.imports.former.iter().cloned().map(state(MaterialState::Former));
        let current = current.map(state(MaterialState::Current));
        former.chain(current).chain(self.imports.pending.clone().map(state(MaterialState::Pending))).collect()
    }

    /// What a material is to the key; none for one that it does not have.
    pub fn state_of(&self, id: MaterialId) -> Option<MaterialState> {
        self.imported().into_iter().find(|(_, import)| import.id == id).map(|(state, _)| state)
    }

    /// Whether this material is here.
    pub fn is_here(&self, id: MaterialId) -> bool {
        self.materials().chain(&self.pending).any(|material| material.id == id)
    }

    /// Whether all material that the key needs is here.
    pub(super) fn is_complete(&self) -> bool {
        self.material.is_some() && self.imports.former.iter().all(|import| self.is_here(import.id))
    }

    /// When each imported material ends by itself.
    pub fn import_ends(&self) -> impl Iterator<Item = (MaterialId, u64)> {
        let others = self.imports.former.iter().chain(&self.imports.pending);
        let others = others.filter_map(|import| Some((import.id, import.valid_to_us?)));
        self.current.zip(self.valid_to_us).into_iter().chain(others)
    }

    /// A copy with the material that waits for its rotation, as the store has it.
    pub fn with_pending(self, pending: Option<Arc<Material>>) -> Self {
        Self { pending, ..self }
    }

    /// A copy with imported material: the first, one that comes back or gets another end, or one that will wait for its
    /// rotation. A key that waited for the last one that was away is enabled, unless it was not when the first of them went.
    pub fn with_imported(&self, material: Arc<Material>, valid_to_us: Option<u64>, description: Option<&str>) -> Self {
        let mut copy = self.clone();
        let id = material.id;
        let imports = Arc::make_mut(&mut copy.imports);
        let is = |import: &&mut Import| import.id == id;
        if self.current.is_none_or(|current| current == id) {
            imports.current.describe(description);
            (copy.current, copy.material, copy.valid_to_us) = (Some(id), Some(material), valid_to_us);
        } else if let Some(import) = imports.former.iter_mut().find(is) {
            import.valid_to_us = valid_to_us;
            import.about.describe(description);
            copy.former.retain(|former| former.id != id);
            copy.former.push(material);
        } else {
            let new = Import { id, valid_to_us: None, about: About::default() };
            let import = imports.pending.get_or_insert(new);
            import.valid_to_us = valid_to_us;
            import.about.describe(description);
            copy.pending = Some(material);
        }
        if copy.state == KeyState::PendingImport && copy.is_complete() {
            copy.state = if copy.comes_back_disabled { KeyState::Disabled } else { KeyState::Enabled };
            copy.comes_back_disabled = false;
        }
        copy
    }

    /// A copy without this imported material. The key keeps the id of what it needs and waits for it; what waited for a
    /// rotation is forgotten. That a key was disabled outlasts its material: whoever may import must not be able to enable.
    pub fn without_imported(&self, id: Option<MaterialId>) -> Self {
        let mut copy = self.clone();
        let imports = Arc::make_mut(&mut copy.imports);
        if id.is_some() && imports.pending.as_ref().map(|import| import.id) == id {
            (imports.pending, copy.pending, copy.on_demand_us) = (None, None, None);
            return copy;
        }
        if let Some(import) = imports.former.iter_mut().find(|import| Some(import.id) == id) {
            import.valid_to_us = None;
            copy.former.retain(|former| Some(former.id) != id);
        } else {
            (copy.material, copy.valid_to_us) = (None, None);
        }
        if self.has_material() {
            copy.comes_back_disabled = !matches!(self.state, KeyState::Enabled | KeyState::Updating { .. });
        }
        if !self.state.is_pending_deletion() {
            copy.state = KeyState::PendingImport;
        }
        copy
    }

    /// A copy with the material that waited as the current one; none while nothing waits.
    pub fn with_pending_rotated(&self, now_us: u64) -> Option<Self> {
        let mut copy = self.clone();
        let next = copy.pending.take()?;
        let imports = Arc::make_mut(&mut copy.imports);
        let pending = imports.pending.take()?;
        let about = About { rotated_us: Some(now_us), ..pending.about };
        let about = std::mem::replace(&mut imports.current, about);
        imports.former.push(Import { id: self.current?, valid_to_us: self.valid_to_us, about });
        (copy.current, copy.valid_to_us, copy.on_demand_us) = (Some(next.id), pending.valid_to_us, None);
        copy.former.extend(copy.material.replace(next));
        Some(copy)
    }

    /// How often its owner's material was rotated, or is being.
    pub fn import_rotations(&self) -> usize {
        self.imports.former.len()
    }

    /// Of the rotation that is due: only what waits can become current.
    pub(super) fn import_rotation_due(&self, now_us: u64) -> Option<RotationType> {
        let asked = self.on_demand_us.is_some_and(|asked_us| asked_us <= now_us);
        let works = |import: &Import| import.valid_to_us.is_none_or(|valid_to_us| valid_to_us > now_us);
        (asked && self.imports.pending.as_ref().is_some_and(works)).then_some(RotationType::OnDemand)
    }
}

impl About {
    /// Words that were not given leave those that there are.
    fn describe(&mut self, description: Option<&str>) {
        if let Some(description) = description {
            self.description = Some(description.into());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{material_of, waiting};
    use super::*;

    fn id(byte: u8) -> MaterialId {
        MaterialId([byte; 32])
    }

    fn states(key: &KeyRecord) -> Vec<(u8, MaterialState, bool)> {
        key.imported().iter().map(|(state, import)| (import.id.0[0], *state, key.is_here(import.id))).collect()
    }

    #[test]
    fn the_key_works_while_all_that_was_ever_current_is_here() {
        use MaterialState::{Current, Former, Pending};
        let first = waiting().with_imported(material_of(1), None, Some("one"));
        let second = first.with_imported(material_of(2), Some(20), None);
        assert_eq!(states(&second), [(1, Current, true), (2, Pending, true)]);
        assert!(second.usable(5).is_ok() && second.usable(30).is_ok(), "what waits does not hinder");
        let rotated = second.with_pending_rotated(7).unwrap();
        assert_eq!(states(&rotated), [(1, Former, true), (2, Current, true)]);
        assert_eq!((rotated.material_id(), rotated.import_rotations()), (Some(id(2).to_string()), 1));
        assert_eq!(rotated.imported()[0].1.about.description.as_deref(), Some("one"));
        assert_eq!(rotated.imported()[1].1.about.rotated_us, Some(7));
        assert!(rotated.usable(19).is_ok() && rotated.usable(20).is_err(), "the current one ends");

        let away = rotated.without_imported(Some(id(1)));
        assert_eq!((away.state, states(&away)[0]), (KeyState::PendingImport, (1, Former, false)));
        let both = away.without_imported(Some(id(2)));
        let one_back = both.with_imported(material_of(2), None, None);
        assert_eq!(one_back.state, KeyState::PendingImport);
        let back = one_back.with_imported(material_of(1), Some(9), None);
        assert_eq!((back.state, back.usable(8).is_ok(), back.usable(9).is_ok()), (KeyState::Enabled, true, false));
        assert_eq!(back.import_ends().collect::<Vec<_>>(), [(id(1), 9)]);
    }

    #[test]
    fn what_waits_is_forgotten_when_it_goes_and_the_rotation_to_it_too() {
        let key = waiting().with_imported(material_of(1), None, None).with_imported(material_of(2), None, None);
        let asked = key.with_rotation(None, Some(5));
        assert_eq!(asked.rotation_due(6), Some(RotationType::OnDemand));
        let ending = asked.with_imported(material_of(2), Some(7), None);
        assert_eq!(
            (ending.rotation_due(6), ending.rotation_due(7)),
            (Some(RotationType::OnDemand), None),
            "it has ended"
        );
        let without = asked.without_imported(Some(id(2)));
        assert_eq!((without.state, without.rotation_due(6), without.on_demand_us), (KeyState::Enabled, None, None));
        assert!(without.state_of(id(2)).is_none() && without.with_pending_rotated(7).is_none());
    }

    #[test]
    fn a_key_that_was_disabled_stays_so_over_all_that_went() {
        let key = waiting().with_imported(material_of(1), None, None).with_imported(material_of(2), None, None);
        let key = key.with_pending_rotated(3).unwrap().with_state(KeyState::Disabled);
        let away = key.without_imported(Some(id(1))).without_imported(Some(id(2)));
        let back = away.with_imported(material_of(1), None, None).with_imported(material_of(2), None, None);
        assert_eq!((back.state, back.comes_back_disabled), (KeyState::Disabled, false));
    }
}
