//! Trace context on its way to the hub: a hook that writes W3C `traceparent` and `tracestate` into each call's metadata.
//! The client knows no tracing library; whoever uses one gives a propagator.

use std::fmt;
use std::sync::Arc;

use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Writes the current trace context.
pub trait TracePropagator: Send + Sync + 'static {
    /// Calls `carrier(name, value)` for each header of the current context, for example `traceparent`. Called once for each
    /// gRPC call, on the task that makes it. Names and values that gRPC metadata does not allow are left out.
    fn inject(&self, carrier: &mut dyn FnMut(&str, &str));
}

/// The interceptor of each call: adds the trace context if there is a propagator.
#[derive(Clone, Default)]
pub struct Propagation(Option<Arc<dyn TracePropagator>>);

impl Propagation {
    /// Propagates by the given propagator.
    pub fn new(propagator: Arc<dyn TracePropagator>) -> Self {
        Propagation(Some(propagator))
    }
}

impl fmt::Debug for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Propagation(on)" } else { "Propagation(off)" })
    }
}

impl Interceptor for Propagation {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(propagator) = &self.0 {
            propagator.inject(&mut |name, value| {
                let key = MetadataKey::<Ascii>::from_bytes(name.to_ascii_lowercase().as_bytes());
                if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value)) {
                    request.metadata_mut().insert(key, value);
                }
            });
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    struct Fixed;

    impl TracePropagator for Fixed {
        fn inject(&self, carrier: &mut dyn FnMut(&str, &str)) {
            carrier("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
            carrier("not a name", "x");
            carrier("tracestate", "a\nb");
        }
    }

    #[test]
    fn the_context_goes_into_the_metadata_and_bad_headers_do_not() {
        let request = Propagation::new(Arc::new(Fixed)).call(Request::new(())).unwrap();
        let metadata = request.metadata();
        assert_eq!(metadata.len(), 1);
        let parent = metadata.get("traceparent").unwrap().to_str().unwrap();
        assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c"));
    }
}
