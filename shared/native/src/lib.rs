//! Python bindings of the Weirgate data planes: shells without logic. Every call releases the GIL.

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use weirgate_appgw::GatewayPlane;
use weirgate_edge::EdgePlane;
use weirgate_shared::load_page::{GatewayState, LoadPage as Page};
use weirgate_shared::places::{MAX_REGIONS, PlaceBoard as Board};
use weirgate_shared::rate_table::RateTable;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::Snapshot;
use weirgate_shared::worker::WorkerError;

fn stopped(error: &WorkerError) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

/// A worker's answer, whose own error is the caller's fault.
fn flatten<E: ToString>(result: Result<Result<(), E>, WorkerError>) -> PyResult<()> {
    result.map_err(|error| stopped(&error))?.map_err(|error| PyValueError::new_err(error.to_string()))
}

macro_rules! data_plane {
    ($name:ident, $plane:ident, $doc:literal, { $($extra:tt)* }) => {
        #[doc = $doc]
        #[pyclass(frozen, module = "weirgate._native")]
        struct $name {
            plane: std::sync::OnceLock<$plane>,
            bootstrap: std::sync::Mutex<Option<Vec<u8>>>,
        }

        impl $name {
            fn plane(&self) -> PyResult<&$plane> {
                self.plane.get().ok_or_else(|| PyRuntimeError::new_err("the data plane is not started"))
            }
        }

        #[pymethods]
        impl $name {
            #[new]
            fn new(bootstrap: Vec<u8>) -> Self {
                Self { plane: std::sync::OnceLock::new(), bootstrap: std::sync::Mutex::new(Some(bootstrap)) }
            }

            fn start(&self, py: Python<'_>) -> PyResult<()> {
                let bootstrap = self.bootstrap.lock().ok().and_then(|mut bootstrap| bootstrap.take());
                let bootstrap = bootstrap.ok_or_else(|| PyRuntimeError::new_err("the data plane was started before"))?;
                let plane = py.detach(|| $plane::start(&bootstrap)).map_err(|error| PyValueError::new_err(error.to_string()))?;
                self.plane.set(plane).map_err(|_| PyRuntimeError::new_err("the data plane was started before"))
            }

            fn apply(&self, py: Python<'_>, snapshot: &[u8], generation: u64) -> PyResult<()> {
                let plane = self.plane()?;
                flatten(py.detach(|| plane.apply(snapshot, generation)))
            }

            fn set_endpoints(&self, py: Python<'_>, states: &[u8]) -> PyResult<()> {
                let plane = self.plane()?;
                flatten(py.detach(|| plane.set_endpoints(states)))
            }

            fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
                let plane = self.plane()?;
                Ok(PyBytes::new(py, &py.detach(|| plane.metrics()).map_err(|error| stopped(&error))?))
            }

            fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
                let plane = self.plane()?;
                Ok(PyBytes::new(py, &py.detach(|| plane.status()).map_err(|error| stopped(&error))?))
            }

            fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
                let plane = self.plane()?;
                Ok(PyBytes::new(py, &py.detach(|| plane.snapshot()).map_err(|error| stopped(&error))?))
            }

            fn drain(&self, py: Python<'_>, deadline_ms: u64) -> PyResult<()> {
                let plane = self.plane()?;
                py.detach(|| plane.drain(deadline_ms)).map_err(|error| stopped(&error))
            }

            fn stop(&self, py: Python<'_>) -> PyResult<()> {
                let plane = self.plane()?;
                py.detach(|| plane.stop());
                Ok(())
            }

            $($extra)*
        }
    };
}

data_plane!(GatewayDataPlane, GatewayPlane, "The layer-7 data plane of a gateway process.", {});
data_plane!(EdgeDataPlane, EdgePlane, "The layer-4 data plane of an edge process.", {
    fn add_listener(&self, py: Python<'_>, key: String, fd: RawFd) -> PyResult<()> {
        let plane = self.plane()?;
        flatten(py.detach(|| plane.add_listener(key, fd)))
    }

    fn hand_over(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        let plane = self.plane()?;
        flatten(py.detach(|| plane.hand_over(fd)))
    }

    fn set_shuns(&self, py: Python<'_>, shuns: &[u8]) -> PyResult<()> {
        let plane = self.plane()?;
        py.detach(|| plane.set_shuns(shuns)).map_err(|error| PyValueError::new_err(error.to_string()))
    }
});

/// The supervisor's view of the load page.
#[pyclass(frozen, module = "weirgate._native")]
struct LoadPage {
    page: Page,
    gateways: usize,
}

#[pymethods]
impl LoadPage {
    #[staticmethod]
    fn create(gateways: usize) -> PyResult<Self> {
        if gateways == 0 || gateways > weirgate_shared::load_page::MAX_GATEWAYS {
            return Err(PyValueError::new_err(format!("gateways: {gateways}, wanted 1 to 256")));
        }
        Ok(Self { page: Page::create().map_err(PyOSError::new_err)?, gateways })
    }

    #[getter]
    fn fd(&self) -> RawFd {
        self.page.fd().as_raw_fd()
    }

    fn set_state(&self, index: usize, state: &str) -> PyResult<()> {
        let state = GatewayState::from_name(state)
            .ok_or_else(|| PyValueError::new_err(format!("no gateway state '{state}'")))?;
        if index >= self.gateways {
            return Err(PyValueError::new_err(format!("gateway {index} of {}", self.gateways)));
        }
        self.page.set_state(index, state);
        Ok(())
    }

    fn count_taken(&self, index: usize) {
        self.page.count_taken(index);
    }

    fn read<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        (0..self.gateways)
            .map(|index| {
                let load = self.page.read(index);
                let line = PyDict::new(py);
                line.set_item("index", index)?;
                line.set_item("state", load.state.name())?;
                line.set_item("heartbeat_ms", load.heartbeat_ms)?;
                line.set_item("connections", load.connections)?;
                line.set_item("requests_in_flight", load.requests_in_flight)?;
                line.set_item("latency_us", load.latency_us)?;
                line.set_item("generation", load.generation)?;
                line.set_item("queued", load.queued)?;
                Ok(line)
            })
            .collect()
    }
}

/// The supervisor's view of what the edge processes hold together.
#[pyclass(frozen, module = "weirgate._native")]
struct PlaceBoard {
    board: Board,
    regions: usize,
}

#[pymethods]
impl PlaceBoard {
    #[staticmethod]
    fn create(regions: usize) -> PyResult<Self> {
        if regions == 0 || regions > MAX_REGIONS {
            return Err(PyValueError::new_err(format!("regions: {regions}, wanted 1 to {MAX_REGIONS}")));
        }
        Ok(Self { board: Board::create(regions).map_err(PyOSError::new_err)?, regions })
    }

    #[getter]
    fn fd(&self) -> RawFd {
        self.board.fd().as_raw_fd()
    }

    fn empty(&self, region: usize) -> PyResult<()> {
        if region >= self.regions {
            return Err(PyValueError::new_err(format!("region {region} of {}", self.regions)));
        }
        self.board.empty(region).map_err(PyOSError::new_err)
    }
}

/// A new rate table; the fd is the caller's.
#[pyfunction]
fn create_rate_table() -> PyResult<RawFd> {
    let table = RateTable::create().map_err(PyOSError::new_err)?;
    Ok(table.fd().try_clone_to_owned().map_err(PyOSError::new_err)?.into_raw_fd())
}

/// What only the data planes can judge about a snapshot.
#[pyfunction]
fn validate(py: Python<'_>, snapshot: &[u8]) -> Vec<(String, String)> {
    py.detach(|| match Snapshot::parse(snapshot) {
        Ok(snapshot) => {
            let mut found = weirgate_appgw::validate(&snapshot);
            found.extend(weirgate_edge::validate(&snapshot));
            found
        }
        Err(error) => vec![(String::new(), error.to_string())],
    })
}

/// Every reason: code, origin, status, text.
#[pyfunction]
fn reasons(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    Reason::ALL
        .iter()
        .map(|reason| {
            let line = PyDict::new(py);
            line.set_item("code", reason.code())?;
            line.set_item("origin", reason.origin().name())?;
            line.set_item("status", reason.status())?;
            line.set_item("text", reason.text())?;
            Ok(line)
        })
        .collect()
}

/// The module.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{EdgeDataPlane, GatewayDataPlane, LoadPage, PlaceBoard, create_rate_table, reasons, validate};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
