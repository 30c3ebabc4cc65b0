"""Secrets are found by their form or their name, and harmless text is left alone."""

import pytest

from rlhive._secrets import find_secret, is_secret_name, mask_arguments, mask_secrets, own_secrets

A = "aB3" * 20
SECRETS = {
    f"hf_{A[:30]}": "a Hugging Face token",
    f"ghp_{A[:36]}": "a GitHub token",
    f"github_pat_{A[:22]}_{A[:20]}": "a GitHub token",
    f"glpat-{A[:20]}": "a GitLab token",
    "AKIAIOSFODNN7EXAMPLE": "an AWS access key",
    f"AIza{A[:35]}": "a Google key",
    f"sk-proj-{A[:40]}": "an OpenAI or Anthropic key",
    f"sk-ant-api03-{A[:40]}": "an OpenAI or Anthropic key",
    "xoxb-123456789012-abcdef": "a Slack token",
    f"npm_{A[:36]}": "a package index token",
    f"eyJ{A[:20]}.eyJ{A[:20]}.{A[:20]}": "a JSON web token",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "a private key",
    "postgres://alice:hunter2@db.corp.local/x": "a URL with a password",
    f"Authorization: Bearer {A[:24]}": "an authorization header",
}
HARMLESS = [
    "the token hf_ is short, sk-learn is a library, and https://example.com:8080/@me has no password",
    "git@github.com:lab/knob.git, 0f3c" + "0" * 36,
    "xoxo-hugs and eyJust a word; Bearer of news",
    "s3://bucket/key, file:///home, C:\\Users\\a",
]


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_a_token_of_a_known_form_is_found_and_masked(text, kind):
    assert find_secret(f"note: {text}, see") == kind
    masked = mask_secrets({"note": [f"note: {text}"]})["note"][0]
    assert "***" in masked
    assert find_secret(masked) == ""


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays(text):
    assert find_secret(text) == ""
    assert mask_secrets(text) == text


@pytest.mark.parametrize("name", ["api_key", "wandb-key", "HF_TOKEN", "dbPassword", "AWS_SECRET_ACCESS_KEY", "a.pwd"])
def test_a_name_says_that_its_value_is_a_secret(name):
    assert is_secret_name(name)
    assert mask_secrets({name: "x1", "other": "x1"}) == {name: "***", "other": "x1"}


@pytest.mark.parametrize("name", ["obs_keys", "key", "max_tokens", "tokenizer", "token_dim", "pass_rate", "author", ""])
def test_other_names_do_not(name):
    assert not is_secret_name(name)


def test_a_command_line_loses_the_values_of_secret_arguments_only():
    arguments = [
        "run.py",
        "--wandb-key",
        "abc",
        "--db",
        "postgres://a:pw@db/x",
        "--token=xyz",
        "b.password=q",
        "--n",
        "3",
    ]
    masked = [
        "run.py",
        "--wandb-key",
        "***",
        "--db",
        "postgres://***@db/x",
        "--token=***",
        "b.password=***",
        "--n",
        "3",
    ]

    assert mask_arguments(arguments) == masked
    assert mask_arguments(["--key", "v", "--obs-keys", "a", "--auth", "--x"]) == [
        *("--key", "***", "--obs-keys", "a", "--auth", "--x"),
    ]


def test_the_secrets_of_the_environment_are_known_by_their_values(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("TOKEN_FILE", "/run/secrets/token")

    values = own_secrets()
    assert "0123456789abcdef" in values
    assert not {"abc", "/run/secrets/token"} & set(values)
    assert find_secret("x 0123456789abcdef y", values) == "a secret of this environment"
