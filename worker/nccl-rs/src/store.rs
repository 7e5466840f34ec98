//! c10d's TCPStore: the key-value store over which ranks find one another.

use std::ffi::{CString, c_char};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::ptr::NonNull;
use std::time::Duration;

use crate::error::{Error, Result, c_text, checked, created};
use crate::sys;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How long opening it, and each wait for a key, may take.
    pub timeout: Duration,
    /// When given, and all members must then give the same: [`TcpStore::serve`]
    /// returns only once this many members, itself included, have joined.
    pub world_size: Option<usize>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_mins(5), world_size: None }
    }
}

/// A member of a TCP store; the one that [serves](TcpStore::serve) holds the data.
///
/// When the server is dropped, the other members' calls fail with
/// [`Error::PeerLost`].
#[derive(Debug)]
pub struct TcpStore {
    raw: NonNull<sys::Store>,
    /// One connection, on which one call is under way at a time: not `Sync`.
    _single_thread: PhantomData<std::cell::Cell<()>>,
}

// SAFETY: TCPStore is bound to no thread; only simultaneous use is ruled out.
unsafe impl Send for TcpStore {}

impl TcpStore {
    /// Starts the store's server on `listen` and joins it. Port 0 takes a free
    /// one, told by [`Self::port`].
    pub fn serve(listen: SocketAddr, options: &StoreOptions) -> Result<Self> {
        let refuse = |error: std::io::Error| {
            Error::InvalidArgument(format!("cannot listen on {listen} for the store: {error}"))
        };
        let listener = TcpListener::bind(listen).map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let own_address = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self::open(&own_address.to_string(), bound.port(), Some(listener), options)
    }

    /// Joins the store that another process serves on `host:port`, trying until
    /// it answers or the timeout is over.
    pub fn connect(host: &str, port: u16, options: &StoreOptions) -> Result<Self> {
        Self::open(host, port, None, options)
    }

    fn open(
        host: &str,
        port: u16,
        listener: Option<TcpListener>,
        options: &StoreOptions,
    ) -> Result<Self> {
        let host_text = c_text("host", host)?;
        let timeout = millis(options.timeout)?;
        let world_size = options.world_size.unwrap_or(0);
        // From here the store's server owns the socket.
        let listen_fd = listener.map_or(-1, IntoRawFd::into_raw_fd);
        let raw = created(&format!("open the store at {host}:{port}"), |out, message| {
            // SAFETY: the host is NUL-ended, the descriptor is ours to give, and
            // both out-pointers are live.
            unsafe {
                sys::hearth_store_open(
                    host_text.as_ptr(),
                    port,
                    listen_fd,
                    world_size,
                    timeout,
                    out,
                    message,
                )
            }
        })?;
        Ok(Self { raw, _single_thread: PhantomData })
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        // SAFETY: `raw` lives until Drop.
        unsafe { sys::hearth_store_port(self.raw.as_ptr()) }
    }

    /// Sets `key`, and wakes who waits for it.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let text = c_text("key", key)?;
        checked(&format!("set {key} in the store"), |message| {
            // SAFETY: `raw` lives until Drop; pointer and length are one slice's.
            unsafe {
                sys::hearth_store_set(
                    self.raw.as_ptr(),
                    text.as_ptr(),
                    value.as_ptr(),
                    value.len(),
                    message,
                )
            }
        })
    }

    /// The value of `key`, waiting for it up to the store's timeout.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let text = c_text("key", key)?;
        let mut length = 0;
        let value = created(&format!("get {key} from the store"), |out, message| {
            // SAFETY: `raw` lives until Drop; the out-pointers are live.
            unsafe {
                sys::hearth_store_get(
                    self.raw.as_ptr(),
                    text.as_ptr(),
                    out,
                    &raw mut length,
                    message,
                )
            }
        })?;
        // SAFETY: the shim stored a buffer of `length` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(value.as_ptr(), length) }.to_vec();
        // SAFETY: the buffer is from malloc, and `bytes` is a copy.
        unsafe { sys::hearth_message_free(value.as_ptr().cast()) };
        Ok(bytes)
    }

    /// Adds to the number under `key`, which is 0 where unset; gives the sum.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let text = c_text("key", key)?;
        let mut sum = 0;
        checked(&format!("add to {key} in the store"), |message| {
            // SAFETY: `raw` lives until Drop; the out-pointers are live.
            unsafe {
                sys::hearth_store_add(
                    self.raw.as_ptr(),
                    text.as_ptr(),
                    amount,
                    &raw mut sum,
                    message,
                )
            }
        })?;
        Ok(sum)
    }

    /// Waits until all `keys` are set.
    pub fn wait(&self, keys: &[&str], timeout: Duration) -> Result<()> {
        let texts = keys.iter().map(|key| c_text("key", key)).collect::<Result<Vec<CString>>>()?;
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let timeout = millis(timeout)?;
        checked(&format!("wait for {keys:?} in the store"), |message| {
            // SAFETY: `raw` lives until Drop; `texts` outlives the call.
            unsafe {
                sys::hearth_store_wait(
                    self.raw.as_ptr(),
                    pointers.as_ptr(),
                    pointers.len(),
                    timeout,
                    message,
                )
            }
        })
    }

    /// Whether `key` is set, without waiting.
    pub fn contains(&self, key: &str) -> Result<bool> {
        let text = c_text("key", key)?;
        let mut found = false;
        checked(&format!("look for {key} in the store"), |message| {
            // SAFETY: `raw` lives until Drop; the out-pointers are live.
            unsafe {
                sys::hearth_store_contains(
                    self.raw.as_ptr(),
                    text.as_ptr(),
                    &raw mut found,
                    message,
                )
            }
        })?;
        Ok(found)
    }

    /// Removes `key`; tells whether it was there.
    pub fn delete(&self, key: &str) -> Result<bool> {
        let text = c_text("key", key)?;
        let mut deleted = false;
        checked(&format!("delete {key} from the store"), |message| {
            // SAFETY: `raw` lives until Drop; the out-pointers are live.
            unsafe {
                sys::hearth_store_delete(
                    self.raw.as_ptr(),
                    text.as_ptr(),
                    &raw mut deleted,
                    message,
                )
            }
        })?;
        Ok(deleted)
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::Store {
        self.raw.as_ptr()
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: made by hearth_store_open, and freed only here.
        unsafe { sys::hearth_store_free(self.raw.as_ptr()) };
    }
}

/// c10d counts in whole milliseconds, and takes 0 for "for ever".
pub(crate) fn millis(timeout: Duration) -> Result<i64> {
    match i64::try_from(timeout.as_millis()) {
        Ok(count @ 1..) => Ok(count),
        _ => Err(Error::InvalidArgument(format!(
            "a timeout of {timeout:?} is out of range: give at least 1 ms"
        ))),
    }
}
