"""Falcon that hands every posted event to plain Celery before it answers 202; granian serves it over WSGI, the quickest shape of this known to us."""

import falcon

from benchmarks.peers.celery_peer import fan_out


class Events:
    def on_post(self, request, response):
        fan_out.delay(request.get_media())
        response.status = falcon.HTTP_202
        response.media = {"status": "accepted"}


app = falcon.App()
app.add_route("/v1/consent-events", Events())
