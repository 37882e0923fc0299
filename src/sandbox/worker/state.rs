//! The state of an interpreter at rest as bytes: its memory where it differs from the image.
//!
//! Everything of a guest that lasts lies in its memory: at rest its stack is empty and its other registers are as they
//! were at its start. What the host holds for it (open files, timers) does not travel: with any, there is no state.

use super::raw::PAGE;
use super::seat::Live;

/// Bytes of a page's number.
const NUMBER: usize = 4;
/// Bytes of the memory's size, in front.
const SIZE: usize = 8;

/// Why there is no state, or none that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateFault {
    /// The component has a memory of its own.
    #[error("sessions of this guest cannot be stored")]
    Foreign,
    /// Files or timers are open.
    #[error("the program of this session has files open; close them first")]
    Open,
    /// The bytes are not a state.
    #[error("the stored state cannot be used")]
    Malformed,
}

/// The state of `live`.
///
/// # Errors
/// [`StateFault`].
pub(crate) fn take(live: &mut Live) -> Result<Vec<u8>, StateFault> {
    if live.resources() > live.own {
        return Err(StateFault::Open);
    }
    let grip = live.grip.clone().ok_or(StateFault::Foreign)?;
    let mut state = (grip.size() as u64).to_le_bytes().to_vec();
    grip.changed(&mut live.store, |offset, page| {
        let number = u32::try_from(offset / PAGE).unwrap_or(u32::MAX);
        state.extend_from_slice(&number.to_le_bytes());
        state.extend_from_slice(page);
    });
    Ok(state)
}

/// The size of the memory in `state`, bytes.
///
/// # Errors
/// [`StateFault::Malformed`].
pub(crate) fn size(state: &[u8]) -> Result<usize, StateFault> {
    let size = state.first_chunk::<SIZE>().map(|size| u64::from_le_bytes(*size));
    let size = size.and_then(|size| usize::try_from(size).ok()).ok_or(StateFault::Malformed)?;
    let pages = (state.len() - SIZE) / (NUMBER + PAGE);
    let whole = (state.len() - SIZE).is_multiple_of(NUMBER + PAGE) && size.is_multiple_of(64 << 10);
    if whole && pages <= size / PAGE && size <= 4 << 30 { Ok(size) } else { Err(StateFault::Malformed) }
}

/// Makes `live`, which has just started with a memory of [`size`], what `state` says.
///
/// # Errors
/// [`StateFault`].
pub(crate) fn give(live: &mut Live, state: &[u8]) -> Result<(), StateFault> {
    let grip = live.grip.clone().ok_or(StateFault::Foreign)?;
    if size(state)? != grip.size() {
        return Err(StateFault::Malformed);
    }
    // What the start itself changed is not part of the state.
    let mut stale = Vec::new();
    grip.changed(&mut live.store, |offset, _| stale.push(offset));
    for offset in stale {
        let first = grip.first(offset);
        grip.write(&mut live.store, offset, &first);
    }
    let fits = pages(state).all(|(offset, page)| grip.write(&mut live.store, offset, page));
    if fits { Ok(()) } else { Err(StateFault::Malformed) }
}

/// Writes the pages of `state` into `memory`, which becomes as long as `state` says.
///
/// # Errors
/// [`StateFault::Malformed`].
pub(crate) fn apply(state: &[u8], memory: &mut Vec<u8>) -> Result<(), StateFault> {
    memory.resize(size(state)?, 0);
    for (offset, page) in pages(state) {
        let end = offset.checked_add(PAGE).ok_or(StateFault::Malformed)?;
        memory.get_mut(offset..end).ok_or(StateFault::Malformed)?.copy_from_slice(page);
    }
    Ok(())
}

/// The pages of a state as (offset, content).
fn pages(state: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    state.get(SIZE..).unwrap_or_default().chunks_exact(NUMBER + PAGE).filter_map(|entry| {
        let (number, page) = entry.split_first_chunk::<NUMBER>()?;
        Some(((u32::from_le_bytes(*number) as usize).saturating_mul(PAGE), page))
    })
}
