"""Carriers of HTTP calls: `curl` by default, `portable` where libcurl cannot be had; both keep the promises of `base`."""
