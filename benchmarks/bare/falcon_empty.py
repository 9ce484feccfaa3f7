"""The product's framework and server answering an empty 202 and doing nothing: what HTTP alone costs."""

import falcon
import falcon.asgi


class Nothing:
    async def on_post(self, request, response):
        await request.stream.exhaust()
        response.status = falcon.HTTP_202


app = falcon.asgi.App()
app.add_route("/v1/consent-events", Nothing())
