//! GPUs as NVML sees them. The library comes with NVIDIA's driver and is loaded
//! when the program runs: where it is missing there are no GPUs to tell of.

use std::ffi::OsStr;
use std::time::Instant;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// The name that containers have; the one without a number comes with
/// development packages only.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What a GPU does now. A figure that the device or the driver does not give
/// (a part of a GPU under MIG has no utilization of its own) is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuFigures {
    /// Share of the newest sampling period in which a kernel ran, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Memory in use, that of other processes included.
    pub memory_bytes: Option<u64>,
    /// Mean power since the last look where the device counts energy, else
    /// its present power.
    pub power_watts: Option<f64>,
}

/// The GPUs of this machine's ranks.
#[derive(Debug)]
pub struct Gpus {
    nvml: Nvml,
    /// By `LOCAL_RANK`.
    devices: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    uuid: String,
    energy: Option<(Instant, u64)>,
}

impl Gpus {
    /// The GPUs that the ranks 0 to `count` compute on. `None`, and a line in
    /// the log, where there is no driver or no GPU.
    pub fn find(count: usize) -> Option<Self> {
        Self::load(LIBRARY, count)
            .inspect_err(|error| tracing::info!(%error, "no figures of GPUs"))
            .ok()
            .filter(|gpus| !gpus.devices.is_empty())
    }

    fn load(library: &str, count: usize) -> Result<Self, NvmlError> {
        let nvml = Nvml::builder().lib_path(OsStr::new(library)).init()?;
        let all = (0..nvml.device_count()?)
            .map(|index| nvml.device_by_index(index)?.uuid())
            .collect::<Result<Vec<_>, _>>()?;
        let asked = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let devices = visible(&all, asked.as_deref())
            .into_iter()
            .take(count)
            .map(|uuid| Watched { uuid, energy: None })
            .collect();
        Ok(Self { nvml, devices })
    }

    /// Asks each GPU, in the order of `LOCAL_RANK`.
    pub fn look(&mut self, now: Instant) -> Vec<GpuFigures> {
        let nvml = &self.nvml;
        let figures = self.devices.iter_mut().map(|watched| {
            let device = nvml.device_by_uuid(watched.uuid.as_str());
            device.map_or_else(|_| GpuFigures::default(), |device| watched.look(&device, now))
        });
        figures.collect()
    }
}

impl Watched {
    fn look(&mut self, device: &Device<'_>, now: Instant) -> GpuFigures {
        let utilization = device.utilization_rates().ok();
        GpuFigures {
            utilization_ratio: utilization.map(|rates| f64::from(rates.gpu) / 100.0),
            memory_bytes: device.memory_info().ok().map(|memory| memory.used),
            power_watts: self.power(device, now),
        }
    }

    fn power(&mut self, device: &Device<'_>, now: Instant) -> Option<f64> {
        let millijoules = device.total_energy_consumption().ok();
        let before = std::mem::replace(&mut self.energy, millijoules.map(|energy| (now, energy)));
        let mean =
            before.zip(millijoules).and_then(|(before, energy)| mean_watts(before, energy, now));
        mean.or_else(|| device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3))
    }
}

/// From a counter of millijoules, which starts anew when the driver does.
fn mean_watts((then, before): (Instant, u64), energy: u64, now: Instant) -> Option<f64> {
    let seconds = now.checked_duration_since(then)?.as_secs_f64();
    let millijoules = energy.checked_sub(before)? as f64;
    (seconds > 0.0).then(|| millijoules / 1e3 / seconds)
}

/// The UUIDs that CUDA numbers from 0, given those of NVML in its order.
/// `CUDA_VISIBLE_DEVICES` holds indices or beginnings of UUIDs; what follows
/// its first invalid entry is not seen (CUDA C++ programming guide, 5.1).
fn visible(all: &[String], asked: Option<&str>) -> Vec<String> {
    let Some(asked) = asked else { return all.to_vec() };
    let one = |entry: &str| -> Option<String> {
        let entry = entry.trim();
        match entry.parse::<usize>() {
            Ok(index) => all.get(index).cloned(),
            // NVML lists no parts of GPUs, but knows their full names.
            Err(_) if entry.starts_with("MIG-") => Some(entry.to_owned()),
            Err(_) if entry.is_empty() => None,
            Err(_) => all.iter().find(|uuid| uuid.starts_with(entry)).cloned(),
        }
    };
    asked.split(',').map_while(one).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_machine_without_the_library_has_no_gpus_and_no_error() {
        let error = Gpus::load("libnvidia-ml-that-is-not-there.so.1", 1).unwrap_err();
        assert!(matches!(error, NvmlError::LibloadingError(_)), "{error:?}");
        // Where there is a driver, its figures must make sense.
        let Some(mut gpus) = Gpus::find(8) else { return };
        for gpu in gpus.look(Instant::now()) {
            assert!(
                gpu.utilization_ratio.is_none_or(|ratio| (0.0..=1.0).contains(&ratio)),
                "{gpu:?}"
            );
            assert!(gpu.power_watts.is_none_or(|watts| watts < 5e3), "{gpu:?}");
        }
    }

    #[test]
    fn gpus_are_numbered_as_cuda_numbers_them() {
        let all = ["GPU-aa1", "GPU-ab2", "GPU-cc3"].map(str::to_owned);
        for (asked, want) in [
            (None, &["GPU-aa1", "GPU-ab2", "GPU-cc3"][..]),
            (Some("2,0"), &["GPU-cc3", "GPU-aa1"]),
            (Some("GPU-ab"), &["GPU-ab2"]),
            (Some("0,-1,1"), &["GPU-aa1"]),
            (Some("MIG-77,1"), &["MIG-77", "GPU-ab2"]),
            (Some(""), &[]),
            (Some("9"), &[]),
        ] {
            assert_eq!(visible(&all, asked), want, "{asked:?}");
        }
    }

    #[test]
    fn power_is_the_energy_of_the_time_between() {
        let then = Instant::now();
        let now = then + Duration::from_secs(4);
        assert_eq!(mean_watts((then, 1_000_000), 3_000_000, now), Some(500.0));
        assert_eq!(mean_watts((then, 3_000_000), 1_000, now), None, "the driver was loaded anew");
        assert_eq!(mean_watts((then, 0), 1_000, then), None);
    }
}
