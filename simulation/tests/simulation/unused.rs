//! Calls of a service that nobody makes here.

/// Refuses them, written as `async_trait` writes methods: it does not see into macros.
macro_rules! unused {
    ($($name:ident: $request:ident => $response:ident),* $(,)?) => {
        $(fn $name<'s, 'f>(
            &'s self,
            _: tonic::Request<$request>,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = Result<tonic::Response<$response>, tonic::Status>> + Send + 'f>,
        >
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(std::future::ready(Err(tonic::Status::unimplemented("not here"))))
        })*
    };
}
