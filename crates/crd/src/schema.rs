//! Schemas of the units: what the API server checks before an object is stored.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::quantity::{Size, Span};

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 24,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 0 : (self == 'unlimited' || self.matches('^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$'))",
                "message": "must be a whole number of bytes, alone or with k, M, G, T, Ki, Mi, Gi or Ti (such as 512Mi), or `unlimited`",
            }],
        })
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "x-kubernetes-validations": [
                {
                    "rule": "!self.startsWith('-')",
                    "message": "must not be negative: write `unlimited` where there is no bound",
                },
                {
                    "rule": "self.startsWith('-') || self == 'unlimited' || self.matches('^([0-9]+(ms|s|m|h|d))+$')",
                    "message": "must be whole numbers with ms, s, m, h or d (such as 90s, 7d, 1d12h), or `unlimited`",
                },
            ],
        })
    }
}
