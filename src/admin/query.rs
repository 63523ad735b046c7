//! Query parameters: each must be one that the endpoint knows, and given once.

use std::borrow::Cow;
use std::fmt::Display;

use percent_encoding::percent_decode_str;

use super::error::ApiError;

#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query; only parameters in `allowed` are accepted.
    pub(super) fn parse(query: &str, allowed: &[&str]) -> Result<Self, ApiError> {
        // Checked first, because form_urlencoded replaces what is not UTF-8.
        decode(query)?;
        if let Some((name, _)) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| !allowed.contains(&&**name))
        {
            let error = ApiError::bad_request(format!("there is no parameter `{name}` here"));
            return Err(error.with_allowed(allowed.iter().copied()));
        }
        Self::parse_known(query, allowed)
    }

    /// Parses the parameters of a query that are in `known`, and ignores all others.
    pub(super) fn parse_known(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
            if !known.contains(&&*name) {
                continue;
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(ApiError::bad_request(format!("the parameter `{name}` is given more than once")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Returns the one of `values` that displays as the parameter's value.
    pub(super) fn one_of<T: Display + Copy>(&self, name: &str, values: &[T]) -> Result<Option<T>, ApiError> {
        let Some(given) = self.get(name) else { return Ok(None) };
        let names: Vec<String> = values.iter().map(T::to_string).collect();
        match names.iter().position(|name| name == given) {
            Some(index) => Ok(Some(values[index])),
            None => {
                let error = ApiError::bad_request(format!("`{name}` cannot be `{given}`"));
                Err(error.with_allowed(names.iter().map(String::as_str)))
            }
        }
    }

    /// The page size that `limit` asks for.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(given) = self.get("limit") else { return Ok(usize::MAX) };
        match integer(given) {
            Some(limit) if limit > 0 => Ok(usize::try_from(limit).unwrap_or(usize::MAX)),
            _ => Err(ApiError::bad_request(format!("`limit` must be a positive integer, not `{given}`"))),
        }
    }
}

/// Parses digits; a number that is too large counts as the largest one.
pub(super) fn integer(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Decodes percent-encoded UTF-8. The library lets malformed escapes through; they are an error here.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, ApiError> {
    let is_escape =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .ok()
        .filter(|_| text.split('%').skip(1).all(is_escape))
        .ok_or_else(|| ApiError::bad_request(format!("`{text}` is not valid percent-encoded UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_percent_encoding_is_an_error() {
        let cases = [
            ("server1", Some("server1")),
            ("server%31", Some("server1")),
            ("%e2%82%AC", Some("€")),
            ("a+b", Some("a+b")),
            ("", Some("")),
            ("%", None),
            ("%3", None),
            ("%3g", None),
            ("%+1", None),
            ("%ff", None),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_rejected() {
        let allowed = ["pool", "limit"];
        for good in ["", "&", "pool=a", "pool=a&limit=3", "po%6fl=a+b", "pool", "pool=a=b"] {
            assert!(Query::parse(good, &allowed).is_ok(), "{good}");
        }
        for bad in ["pol=a", "=", "pool=a&pool=a", "pool=%", "pool=%ff", "POOL=a"] {
            assert!(Query::parse(bad, &allowed).is_err(), "{bad}");
        }
        let query = Query::parse("pool=a+%2b", &allowed).expect("good");
        assert_eq!(query.get("pool"), Some("a +"));
    }

    #[test]
    fn limit_must_be_a_positive_integer() {
        let limit = |text: &str| Query::parse(text, &["limit"]).and_then(|query| query.limit());
        assert_eq!(limit(""), Ok(usize::MAX));
        assert_eq!(limit("limit=7"), Ok(7));
        assert_eq!(limit("limit=99999999999999999999999999"), Ok(usize::MAX));
        for bad in ["limit=0", "limit=-1", "limit=%2B1", "limit=1.0", "limit=", "limit=many"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
