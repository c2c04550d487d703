//! The part of JSON Schema (draft 7) that Codex prints. A keyword that is not known here is an error, not ignored, so that
//! nothing passes unseen when a later release uses more of it.

use serde_json::Value;

/// Keywords that say nothing about whether a value fits. (`format` names sizes of integers, for which `minimum` stands, too.)
const NOTES: [&str; 8] =
    ["$schema", "title", "description", "default", "definitions", "format", "writeOnly", "readOnly"];

/// Whether `value` fits `schema`, whose references lead into `document`; `Err` says where and why not.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    Place { document, path: String::from("$") }.fits(schema, value)
}

struct Place<'a> {
    document: &'a Value,
    path: String,
}

impl Place<'_> {
    fn fits(&mut self, schema: &Value, value: &Value) -> Result<(), String> {
        let keywords = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(keywords) => keywords,
            _ => return Err(self.why("nothing is allowed here")),
        };
        for (keyword, wanted) in keywords {
            match keyword.as_str() {
                "$ref" => {
                    let pointer = wanted.as_str().and_then(|text| text.strip_prefix('#'));
                    let target = pointer.and_then(|pointer| self.document.pointer(pointer));
                    let target = target.ok_or_else(|| self.why(&format!("{wanted} leads nowhere")))?;
                    self.fits(target, value)?;
                }
                "type" => self.has_type(wanted, value)?,
                "enum" if !items(wanted).contains(value) => {
                    return Err(self.why(&format!("{value} is none of {wanted}")));
                }
                "const" if wanted != value => return Err(self.why(&format!("{value} is not {wanted}"))),
                "minimum" if value.as_f64() < wanted.as_f64() && value.is_number() => {
                    return Err(self.why(&format!("{value} is below {wanted}")));
                }
                "minLength" => {
                    let length = value.as_str().map(|text| text.chars().count() as u64);
                    if length.is_some_and(|length| Some(length) < wanted.as_u64()) {
                        return Err(self.why(&format!("{value} is shorter than {wanted}")));
                    }
                }
                "required" => {
                    let missing = |name: &&Value| {
                        value.is_object() && value.get(name.as_str().unwrap_or_default()).is_none()
                    };
                    if let Some(name) = items(wanted).iter().find(missing) {
                        return Err(self.why(&format!("{name} is missing")));
                    }
                }
                "properties" => {
                    for (name, member) in value.as_object().into_iter().flatten() {
                        if let Some(wanted) = wanted.get(name) {
                            self.inside(name, |place| place.fits(wanted, member))?;
                        }
                    }
                }
                "additionalProperties" => {
                    for (name, member) in value.as_object().into_iter().flatten() {
                        if schema["properties"].get(name).is_none() {
                            self.inside(name, |place| place.fits(wanted, member))?;
                        }
                    }
                }
                "items" if wanted.is_array() => return Err(self.why("tuples are not known here")),
                "items" => {
                    for (at, item) in items(value).iter().enumerate() {
                        self.inside(&at.to_string(), |place| place.fits(wanted, item))?;
                    }
                }
                "allOf" => items(wanted).iter().try_for_each(|each| self.fits(each, value))?,
                "anyOf" | "oneOf" => self.fits_one(keyword == "oneOf", items(wanted), value)?,
                "enum" | "const" | "minimum" => {}
                other if NOTES.contains(&other) => {}
                other => return Err(self.why(&format!("the keyword {other} is not known here"))),
            }
        }
        Ok(())
    }

    fn fits_one(&mut self, exactly: bool, alternatives: &[Value], value: &Value) -> Result<(), String> {
        let mut reasons = Vec::new();
        let mut fitting = 0;
        for alternative in alternatives {
            match self.fits(alternative, value) {
                Ok(()) => fitting += 1,
                Err(why) => reasons.push(why),
            }
        }
        match fitting {
            0 => {
                // The alternative that the value means fails deepest.
                let deepest =
                    reasons.into_iter().max_by_key(|why| why.matches('.').count()).unwrap_or_default();
                Err(format!("{} fits none of the alternatives; the closest: {deepest}", self.path))
            }
            1 => Ok(()),
            _ if exactly => Err(self.why("several alternatives fit")),
            _ => Ok(()),
        }
    }

    fn has_type(&self, wanted: &Value, value: &Value) -> Result<(), String> {
        let is = |kind: &Value| match kind.as_str() {
            Some("null") => value.is_null(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("string") => value.is_string(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => false,
        };
        let fits = match wanted {
            Value::Array(kinds) => kinds.iter().any(is),
            kind => is(kind),
        };
        if fits { Ok(()) } else { Err(self.why(&format!("{value} is no {wanted}"))) }
    }

    fn inside<T>(&mut self, step: &str, look: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        self.path.push('.');
        self.path.push_str(step);
        let seen = look(self);
        self.path.truncate(before);
        seen
    }

    fn why(&self, what: &str) -> String {
        let what: String = what.chars().take(300).collect();
        format!("{}: {what}", self.path)
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn values_are_judged_by_every_keyword_and_an_unknown_one_is_an_error() {
        let document = json!({"definitions": {"Name": {"type": "string", "minLength": 2}}});
        let name = json!({"$ref": "#/definitions/Name"});
        let judge =
            |schema: serde_json::Value, value: serde_json::Value| check(&document, &schema, &value).is_ok();
        assert!(judge(name.clone(), json!("ab")) && !judge(name.clone(), json!("a")));
        assert!(!judge(json!({"$ref": "#/definitions/None"}), json!("ab")));
        assert!(judge(json!({"type": ["integer", "null"]}), json!(null)));
        assert!(!judge(json!({"type": "integer"}), json!(1.5)) && judge(json!({"type": "number"}), json!(1)));
        assert!(!judge(json!({"minimum": 0.0}), json!(-1)) && judge(json!({"minimum": 0.0}), json!("text")));
        assert!(judge(json!({"enum": ["a"]}), json!("a")) && !judge(json!({"enum": ["a"]}), json!("b")));
        assert!(!judge(json!({"const": 1}), json!(2)) && judge(json!({"const": 1}), json!(1)));
        let object = json!({"required": ["n"], "properties": {"n": name}, "additionalProperties": false});
        assert!(judge(object.clone(), json!({"n": "ab"})) && !judge(object.clone(), json!({})));
        assert!(!judge(object.clone(), json!({"n": 1})) && !judge(object, json!({"n": "ab", "m": 1})));
        assert!(!judge(json!({"items": {"type": "null"}}), json!([null, 1])));
        let either = json!([{"type": "string"}, {"minLength": 2}]);
        assert!(
            judge(json!({"anyOf": either}), json!("ab")) && !judge(json!({"oneOf": either}), json!("ab"))
        );
        assert!(!judge(json!({"allOf": either}), json!("a")) && judge(json!(true), json!(1)));
        assert!(!judge(json!({"oneOf": [{"type": "null"}]}), json!(1)));
        assert!(!judge(json!({"pattern": "x"}), json!("x")), "not known");
    }
}
