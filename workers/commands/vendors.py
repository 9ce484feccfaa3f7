"""Commands about a vendor: authorize."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import Any

import click

from workers.commands import common


def _read_options(_context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    if any("=" not in pair for pair in pairs):
        raise click.BadParameter("NAME=VALUE was expected, such as list_code=1")
    return dict(pair.split("=", 1) for pair in pairs)


@click.command(short_help="Get the token of an account whose owner must approve.")
@click.argument("vendor")
@click.option("--url", help="Address that takes the request for approval, from <VENDOR>_AUTHORIZATION_URL if left out. It has no default: it is not public.")
@click.option("--redirect-url", help="Page to which the account's owner returns after approving, from <VENDOR>_REDIRECT_URL if left out.")
@click.option("--permission", "permissions", multiple=True, help="What is asked for; may be repeated. By default all that the relay needs.")
@click.option("--destination", help="Try the token as this destination of the routing file: its address, header and options.")
@click.option("--option", "options", multiple=True, callback=_read_options, metavar="NAME=VALUE", help="Without --destination: an option to try it with.")
@click.option("--allow-private-network", is_flag=True, help="Let the address be one of this network, and plain http there (for sandboxes).")
@click.option("--check-only", is_flag=True, help="Ask for nothing: only try a token that has come.")
@click.option("--show", is_flag=True, help="Print the tokens themselves: the line for an environment file with the token in it.")
def authorize(vendor: str, options: dict[str, str], destination: str | None, check_only: bool, show: bool, **asked: Any) -> None:
    """Get the token of a vendor whose account's owner must approve, and try it before it is used.

    For Dinamize: asks for a ConnectionToken, says what the owner does next, reads the Consent-Token of the e-mail (it is not shown while it is pasted),
    and searches with it for an address that cannot exist, so that nobody's data is read. For other vendors it says where their credentials come from.

    The application token is read from DINAMIZE_APPLICATION_TOKEN and the login e-mail from DINAMIZE_CONNECTION_ID, or asked for; where there is no
    terminal, each is a line of standard input. Exits 1 if the vendor refuses, 2 if something is missing.

    \b
    Examples:
      consent authorize dinamize --destination dinamize-news --url https://... --redirect-url https://example.org
      consent authorize dinamize --destination dinamize-news --check-only --show >> routing.env
      consent authorize mailchimp
    """  # noqa: D301 - click reads the backspace
    from pipeline.vendors import adapter_class
    from pipeline.vendors._authorizing import Authorizable
    from workers.authorizing import where_credentials_come_from

    declared = adapter_class(vendor)
    if not issubclass(declared, Authorizable):
        click.echo("\n".join(where_credentials_come_from(vendor, declared)))
        return
    _Authorizing(vendor, declared, destination, options, asked).run(check_only=check_only, show=show)


class _Authorizing:
    """One run of the command; everything that can be missing is looked for before anything is sent."""

    def __init__(self, vendor: str, declared: Any, destination: str | None, options: dict[str, str], asked: dict[str, Any]) -> None:
        from workers.authorizing import configured, refuse_open_way

        self._vendor, self._declared, self._asked = vendor, declared, asked
        self._settings = common.settings(of_running=True)
        self._allow_private: bool = asked["allow_private_network"]
        if destination is not None:
            if options:
                raise click.UsageError("--destination has its own options: give it or --option, not both")
            found = configured(vendor, destination, self._settings, common.environment(of_running=True))
            self._adapter: Any = found.adapter
            self._options = found.options
            self._allow_private = self._allow_private or found.allow_private_network
        else:
            self._adapter, self._options = declared(credentials={declared.token_credential: "not-set-yet"}, options=options), {}
        refuse_open_way(self._adapter.address, f"the address of {destination or vendor}", allow_private_network=self._allow_private)

    def run(self, *, check_only: bool, show: bool) -> None:
        from pipeline.sessions import Unshared
        from workers.options import exchange

        authorization = None if check_only else self._authorization()
        with closing(exchange(self._settings, Unshared())) as talking:
            if authorization is not None:
                self._ask(talking, authorization, show=show)
            token = _private("", f"token of {self._declared.title} from the e-mail (Enter: later)", is_hidden=True)
            if token:
                self._try(talking, token, show=show)
            elif check_only:
                raise click.UsageError("no token was given to check: paste it when asked, or give it as a line of standard input")
            else:
                click.echo(f"once it has come: consent authorize {self._vendor} --check-only", err=True)

    def _authorization(self) -> Any:
        from workers.authorizing import refuse_open_way, variable

        step, asked = self._declared.authorization, self._asked
        name = variable(self._vendor, "authorization_url")
        address = asked["url"] or os.environ.get(name) or step.base_url
        if not address:
            raise click.UsageError(f"{step.title} does not publish the address of this step: ask for it there, then give it as --url or {name}")
        refuse_open_way(address, "--url", allow_private_network=self._allow_private)
        redirect = variable(self._vendor, "redirect_url")
        given = {"redirect_url": asked["redirect_url"] or os.environ.get(redirect, ""), "permissions": list(asked["permissions"])}
        if not given["redirect_url"]:
            raise click.UsageError(f"no page to return to after approving: --redirect-url or {redirect}")
        credentials = {
            name: _private(variable(self._vendor, name), option.description, is_hidden=name not in step.personal) for name, option in step.credentials.items()
        }
        if missing := [variable(self._vendor, name) for name, value in credentials.items() if not value]:
            raise click.UsageError(f"nothing was given for {', '.join(missing)}: set it, or enter it when asked")
        return step(base_url=address, credentials=credentials, options={key: value for key, value in given.items() if value})

    def _ask(self, talking: Any, authorization: Any, *, show: bool) -> None:
        from pipeline.domain import Outcome
        from workers.authorizing import ask_owner

        asked = ask_owner(talking, authorization, allow_private_network=self._allow_private)
        if asked.result.outcome is not Outcome.PENDING_CONFIRMATION:
            raise click.ClickException(f"{authorization.title} did not take the request: {_in_words(asked.result)}")
        click.echo(f"{authorization.title} took the request. {authorization.next_step}", err=True)
        if asked.connection_token and show:
            click.echo(f"# ConnectionToken: {asked.connection_token}")
        elif asked.connection_token:
            click.echo("It gave a ConnectionToken, which names the request (--show prints it).", err=True)

    def _try(self, talking: Any, token: str, *, show: bool) -> None:
        from pipeline.domain import Outcome
        from workers.authorizing import tried, variable

        result = tried(talking, self._adapter.with_token(token), self._options, allow_private_network=self._allow_private)
        if result.outcome is not Outcome.UNCHANGED:
            raise click.ClickException(f"{self._declared.title} does not accept this token: {_in_words(result)}")
        name = variable(self._vendor, self._declared.token_credential)
        click.echo(f"{self._declared.title} accepts this token.", err=True)
        if show:
            click.echo(f"{name}={token}")
            return
        click.echo(f"{name}=<the token>  goes into the environment of every process (--show prints the whole line), and into the routing file as", err=True)
        click.echo(f'credentials: {{{self._declared.token_credential}: "${{{name}}}"}}', err=True)


def _private(variable: str, what: str, *, is_hidden: bool) -> str:
    """A value that must not stand in argv: of the environment, else typed at a terminal, else the next line of standard input; "" if there is none."""
    if variable and (found := os.environ.get(variable, "").strip()):
        return found
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=is_hidden, default="", show_default=False, err=True)).strip()
    return sys.stdin.readline().strip()


def _in_words(result: Any) -> str:
    return f"{result.outcome} ({result.reason})" if result.reason else str(result.outcome)
