//! Names of resources that live on one connection, or in one app-server. The method table gives the requests that
//! begin, use and end them.

use codexd_protocol::methods::{self, Resource, ResourceKind, ResourceRole};
use serde_json::value::RawValue;

use crate::hub::text;

/// The raw name of a resource that has none.
const UNNAMED: &str = "null";

/// The resource that a request begins, uses or ends on its connection before it is answered.
pub fn of_request(method: &str) -> Option<Resource> {
    methods::resource(method).filter(|resource| resource.role != ResourceRole::ContinuesAfterResponse)
}

/// The raw name in the parameters of a request.
pub fn name<'a>(resource: &Resource, params: Option<&'a RawValue>) -> Option<&'a str> {
    match resource.member {
        "" => Some(UNNAMED),
        member => text::member(params?.get(), member).map(RawValue::get),
    }
}

/// The raw name, in the parameters or the result, of a resource that continues after the response.
pub fn continuing_name<'a>(resource: &Resource, members: &'a str) -> Option<&'a str> {
    match resource.member {
        "" => Some(UNNAMED),
        member => text::member(members, member).map(RawValue::get).filter(|name| *name != "null"),
    }
}

/// The resource that a notification ends. A status of `started` ends nothing.
pub fn ended_by(notification: &str, params: &str) -> Option<Resource> {
    let ended = ResourceKind::ended_by(notification)?;
    let is_started = text::string(params, "status").is_some_and(|status| status == "started");
    (!is_started).then_some(ended)
}

#[cfg(test)]
mod tests {
    use codexd_protocol::methods::{self, ResourceKind};

    use super::{continuing_name, ended_by, of_request};

    #[test]
    fn a_gateway_login_ends_when_its_status_is_not_started() {
        let ends = |params: &str| ended_by("account/gatewayOAuth/changed", params).map(|it| it.kind);
        assert_eq!(ends(r#"{"providerId":"p","status":"started","authUrl":"u"}"#), None);
        for status in ["succeeded", "failed", "notReady"] {
            let params = format!(r#"{{"providerId":"p","status":"{status}"}}"#);
            assert_eq!(ends(&params), Some(ResourceKind::GatewayLogin));
        }
    }

    #[test]
    fn a_login_is_named_by_the_response_and_lasts_beyond_it() {
        let login = methods::resource("account/login/start").expect("it continues");
        assert!(login.kind.is_named_by_result());
        assert_eq!(continuing_name(&login, r#"{"type":"chatgpt","loginId":"l"}"#), Some(r#""l""#));
        assert_eq!(continuing_name(&login, r#"{"type":"apiKey"}"#), None, "it ended with the response");
        assert_eq!(of_request("account/login/start"), None);
        assert_eq!(methods::resource("model/list"), None);
    }
}
