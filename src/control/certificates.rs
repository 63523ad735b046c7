//! The files that a configuration refers to: read, parsed, and kept while newer ones cannot be used.
//!
//! The reader reads them with the configuration's own files ([`files`]). The control plane decides which contents are in
//! force ([`in_force`]), and builds what listeners present from them ([`tls_state`]).

pub mod files;
pub mod in_force;
pub mod tls_state;
