//! GPUs: which there are, which a program gets, and that no two programs of this gate's kind get the same one.
//!
//! What counts against a budget is how long they are held, as a bill would; what the driver says of their load is for
//! the eyes only. On a machine without a driver there are none, and that is said.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;

/// Device files that every program with a GPU needs, where the driver made them.
const COMMON: &[&str] = &["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];

/// One GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its name for good: `GPU-…`.
    pub uuid: String,
    /// Its device file.
    pub device: PathBuf,
    /// Programs that compute on it now.
    pub busy: u32,
}

/// Where GPUs are asked for.
pub trait Board: Send + Sync {
    /// Every GPU.
    ///
    /// # Errors
    /// Why there are none, for a person.
    fn cards(&self) -> Result<Vec<Card>, String>;

    /// How much of the last moment a GPU was busy, per cent; `None` where nobody knows.
    fn load(&self, uuid: &str) -> Option<u32>;
}

/// The NVIDIA driver of this machine, asked through its management library.
#[derive(Debug, Default)]
pub struct Driver {
    driver: Option<Nvml>,
}

impl Driver {
    /// Looks for the driver.
    #[must_use]
    pub fn find() -> Self {
        Self { driver: Nvml::init().ok() }
    }
}

impl Board for Driver {
    fn cards(&self) -> Result<Vec<Card>, String> {
        let driver = self.driver.as_ref();
        let driver = driver.ok_or("this machine has no NVIDIA driver, or its management library (NVML) is missing")?;
        let told =
            |error: nvml_wrapper::error::NvmlError| format!("the NVIDIA driver does not say what there is: {error}");
        let card = |index| {
            let device = driver.device_by_index(index)?;
            let busy = device.running_compute_processes_count().unwrap_or(0);
            let file = PathBuf::from(format!("/dev/nvidia{}", device.minor_number()?));
            Ok(Card { uuid: device.uuid()?, device: file, busy })
        };
        (0..driver.device_count().map_err(told)?).map(card).collect::<Result<_, _>>().map_err(told)
    }

    fn load(&self, uuid: &str) -> Option<u32> {
        let device = self.driver.as_ref()?.device_by_uuid(uuid).ok()?;
        device.utilization_rates().ok().map(|load| load.gpu)
    }
}

/// GPUs that a program holds until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Their names.
    pub uuids: Vec<String>,
    /// The device files to be seen; none without a GPU.
    pub devices: Vec<PathBuf>,
    _marks: Vec<UnixListener>,
}

impl Held {
    /// Takes `wanted` GPUs of `board`, idle ones first.
    ///
    /// # Errors
    /// There are fewer that nobody holds, or none at all.
    pub(super) fn take(board: &dyn Board, wanted: u32) -> Result<Self, String> {
        let mut held = Self::default();
        if wanted == 0 {
            return Ok(held);
        }
        let mut cards = board.cards()?;
        let all = cards.len();
        cards.sort_by_key(|card| card.busy);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        for card in cards {
            if held.uuids.len() == wanted {
                break;
            }
            // A name that only one process of the machine can have at a time, and that goes with it.
            let mark = SocketAddr::from_abstract_name(format!("weir-gpu-{}", card.uuid));
            let Ok(mark) = mark.and_then(|name| UnixListener::bind_addr(&name)) else { continue };
            held._marks.push(mark);
            held.devices.push(card.device);
            held.uuids.push(card.uuid);
        }
        if held.uuids.len() < wanted {
            return Err(format!(
                "{wanted} GPUs are asked for; this machine has {all}, and other runs hold some of them"
            ));
        }
        held.devices.extend(COMMON.iter().map(PathBuf::from).filter(|path| path.exists()));
        if let Some(missing) = held.devices.iter().find(|path| !path.exists()) {
            return Err(format!("the device file {} of a GPU is missing", name(missing)));
        }
        Ok(held)
    }

    /// What a program is told of them: these, or none.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let seen = self.uuids.join(",");
        let none = |text: &str| if self.uuids.is_empty() { text.to_owned() } else { seen.clone() };
        vec![
            ("CUDA_VISIBLE_DEVICES".into(), seen.clone()),
            ("NVIDIA_VISIBLE_DEVICES".into(), none("void")),
            ("HIP_VISIBLE_DEVICES".into(), String::new()),
            ("ROCR_VISIBLE_DEVICES".into(), String::new()),
        ]
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Vec<Card>);

    impl Board for Fake {
        fn cards(&self) -> Result<Vec<Card>, String> {
            Ok(self.0.clone())
        }

        fn load(&self, _: &str) -> Option<u32> {
            Some(50)
        }
    }

    #[test]
    fn without_a_gpu_none_is_seen_and_nobody_is_asked() {
        let held = Held::take(&Driver::default(), 0).unwrap();
        assert!(held.devices.is_empty());
        assert!(held.environment().contains(&("CUDA_VISIBLE_DEVICES".into(), String::new())));
        let refused = Held::take(&Driver::default(), 1).unwrap_err();
        assert!(refused.contains("no NVIDIA driver"), "{refused}");
    }

    #[test]
    fn one_that_another_run_holds_is_not_given_twice() {
        let own = format!("GPU-test-{}", std::process::id());
        let name = SocketAddr::from_abstract_name(format!("weir-gpu-{own}")).unwrap();
        let other = UnixListener::bind_addr(&name).unwrap();
        let board = Fake(vec![Card { uuid: own, device: "/dev/weir-none".into(), busy: 0 }]);
        let refused = Held::take(&board, 1).unwrap_err();
        assert!(refused.contains("other runs"), "{refused}");
        drop(other);
        // Free now; the card of the fake has no device file here, which is said and not passed over.
        let missing = Held::take(&board, 1).unwrap_err();
        assert!(missing.contains("weir-none"), "{missing}");
    }
}
