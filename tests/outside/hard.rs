//! The rows of docs/http-cases.md, a module for each of its sections.

mod slow;
