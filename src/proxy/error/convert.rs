//! The failures of other layers as those of a request.

use super::ProxyError;
use crate::http1::body::BodyError;
use crate::http1::client::ResponseError;
use crate::http1::head::HeadError;
use crate::http1::rejection::Rejection;
use crate::proxy::timeouts::{Interrupt, Phase};
use crate::proxy::upstream_pool::ConnectError;
use crate::transport::is_local_shortage;

impl From<Rejection> for ProxyError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<HeadError> for ProxyError {
    fn from(error: HeadError) -> Self {
        Self::BadHead(error)
    }
}

/// Converts an error in the body of a request, not of a response.
impl From<BodyError> for ProxyError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Truncated => Self::ClientGone,
            BodyError::Malformed(bad) => Self::BadBody(bad),
        }
    }
}

impl From<Interrupt> for ProxyError {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Abort => Self::Aborted,
            Interrupt::ClientGone => Self::ClientGone,
            Interrupt::Deadline => Self::DeadlineExceeded,
            Interrupt::Timeout { phase: Phase::Connect, .. } => Self::ConnectTimeout,
            Interrupt::Timeout { phase: Phase::Upload | Phase::Download, client: true } => Self::ClientTooSlow,
            Interrupt::Timeout { phase: Phase::Download, client: false } => Self::ResponseTooSlow,
            Interrupt::Timeout { phase: Phase::Upload | Phase::Response, .. } => Self::ResponseTimeout,
            Interrupt::Timeout { phase: Phase::Tunnel, .. } => Self::TunnelTimeout,
        }
    }
}

impl From<ConnectError> for ProxyError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unresolved => Self::Unresolved,
            ConnectError::NoDescriptor => Self::LocalShortage,
            ConnectError::Tls(failure) => Self::Tls(failure),
            ConnectError::Io(error) if is_local_shortage(&error) => Self::LocalShortage,
            ConnectError::Io(error) => Self::Unreachable(error.kind()),
        }
    }
}

impl ProxyError {
    /// Converts the error of a response; `reused` tells whether its connection had served a request before.
    #[must_use]
    pub fn of_response(error: ResponseError, reused: bool) -> Self {
        match error {
            ResponseError::Closed(sent) if reused => Self::IdleClosed(sent),
            ResponseError::Closed(sent) => Self::Closed(sent),
            ResponseError::Reset(sent) => Self::Reset(sent),
            // The caller knows whether the request can be sent again.
            ResponseError::Refused => Self::Refused { consumed: true },
            ResponseError::Unsendable(reason) => Self::Unsendable(reason),
            ResponseError::TruncatedHead => Self::TruncatedHead,
            ResponseError::Malformed(bad) => Self::BadResponse(bad),
        }
    }
}
