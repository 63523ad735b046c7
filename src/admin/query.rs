//! Queries: the parameters of an endpoint, each known, each given once.

use std::fmt::Display;
use std::num::NonZeroUsize;

use super::refusal::ApiError;

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query of which `known` are the parameters.
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let [name, value] = [name, value].map(|text| decode(&text.replace('+', " ")));
            let (Some(name), Some(value)) = (name, value) else {
                return Err(ApiError::bad(format!("`{pair}` is not percent-encoded UTF-8")));
            };
            if !known.contains(&&*name) {
                let refusal = ApiError::bad(format!("there is no parameter `{name}` here"));
                return Err(refusal.allowing(known.iter().copied()));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(ApiError::bad(format!("the parameter `{name}` is given more than once")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// The one of `values` that is written as the parameter's value, if it is given.
    pub(super) fn one_of<T: Display + Copy>(&self, name: &str, values: &[T]) -> Result<Option<T>, ApiError> {
        let Some(given) = self.get(name) else { return Ok(None) };
        let names: Vec<String> = values.iter().map(T::to_string).collect();
        match names.iter().position(|name| name == given) {
            Some(place) => Ok(Some(values[place])),
            None => {
                let refusal = ApiError::bad(format!("`{name}` cannot be `{given}`"));
                Err(refusal.allowing(names.iter().map(String::as_str)))
            }
        }
    }

    /// How many entries are wanted at most, by `limit`.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(given) = self.get("limit") else { return Ok(usize::MAX) };
        let limit = given.parse::<NonZeroUsize>();
        limit.map(NonZeroUsize::get).map_err(|_| ApiError::bad(format!("`limit` is a number from 1, not `{given}`")))
    }
}

/// Text without its percent-encoding; `None` if that is broken.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |rest: &mut std::str::Bytes<'_>| char::from(rest.next()?).to_digit(16);
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => u8::try_from(digit(&mut rest)? * 16 + digit(&mut rest)?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_taken_off() {
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
            assert_eq!(decode(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        let known = ["pool", "limit"];
        for good in ["", "&", "pool=a", "pool=a&limit=3", "po%6fl=a+b", "pool", "pool=a=b"] {
            assert!(Query::parse(good, &known).is_ok(), "{good}");
        }
        for bad in ["pol=a", "=", "pool=a&pool=a", "pool=%", "POOL=a"] {
            assert!(Query::parse(bad, &known).is_err(), "{bad}");
        }
        let query = Query::parse("pool=a+%2b", &known).expect("good");
        assert_eq!(query.get("pool"), Some("a +"));
    }

    #[test]
    fn a_limit_is_a_positive_number() {
        let limit = |text: &str| Query::parse(text, &["limit"]).and_then(|query| query.limit());
        assert_eq!(limit(""), Ok(usize::MAX));
        assert_eq!(limit("limit=7"), Ok(7));
        for bad in ["limit=0", "limit=-1", "limit=", "limit=many"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
