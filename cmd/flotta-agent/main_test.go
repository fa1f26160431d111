package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cmd := command(func(string) string { return "" }, &out, &out)
	cmd.SetArgs([]string{"version"})
	if err := cmd.ExecuteContext(t.Context()); err != nil || strings.TrimSpace(out.String()) != version {
		t.Errorf("version printed %q, %v", out.String(), err)
	}
}

func TestWithoutYggdItSaysWhoStartsIt(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cmd := command(func(string) string { return "" }, &out, &out)
	cmd.SetArgs([]string{})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "YGG_SOCKET_ADDR") {
		t.Errorf("started without yggd: %v, want the missing variable named", err)
	}
}

func TestABadSettingIsNamed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cmd := command(func(name string) string {
		return map[string]string{"YGG_SOCKET_ADDR": "unix:@none", "FLOTTA_CONFIG": "testdata/bad.toml"}[name]
	}, &out, &out)
	cmd.SetArgs([]string{})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "state-dri") {
		t.Errorf("started with a mistyped setting: %v, want it named", err)
	}
}
