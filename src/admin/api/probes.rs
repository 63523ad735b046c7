//! `/health` and `/ready`: whether the process serves, and whether it has servers for its routes.

use serde_json::json;

use super::{ApiRequest, json};
use crate::admin::ApiResponse;
use crate::admin::error::ApiError;
use crate::admin::view::ConfigState;

/// Liveness.
pub(super) fn health(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    if request.context.state.is_stopping() {
        return Err(ApiError::unavailable("shutting down"));
    }
    json(&json!({ "generation": request.snapshot.generation, "status": "serving" }))
}

/// Readiness.
pub(super) fn ready(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    if request.context.state.is_stopping() {
        return Err(ApiError::unavailable("shutting down"));
    }
    // `?any` without a value is as good as `?any=true`.
    let any = match request.query.get("any") {
        Some("") => true,
        _ => request.query.one_of("any", &[true, false])?.unwrap_or_default(),
    };
    let (unready, another_is_ready) = request.snapshot.routed_unready();
    let unready: Vec<&str> = unready.into_iter().map(|pool| &*pool.live.name).collect();
    if !(unready.is_empty() || any && another_is_ready) {
        let detail = format!("pools without an available server: {}", unready.join(", "));
        return Err(ApiError::unavailable(detail).with_pools(unready));
    }
    let state = ConfigState::of(request.snapshot, request.context.state.reloads().last_outcome());
    let mut view = json!({ "generation": request.snapshot.generation, "status": "ready", "config": state });
    if !unready.is_empty() {
        view["pools"] = unready.into();
    }
    json(&view)
}
