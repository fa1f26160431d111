package osupdate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// lookup finds out whether the remote has the commit, or would have it if it
// fetched from url. It asks in a repository of its own, which is gone
// afterwards: neither the host's repository nor its remote is touched. The keys
// of the remote go with it (certificates, proxy, and so on), but not the
// verification of signatures: whoever stages the commit verifies them, with the
// keyrings of the host's repository.
func lookup(ctx context.Context, run runner, scratch string, r remote, url, commit string) (err error) {
	if url == "" {
		url = r.url()
	}
	if url == "" {
		return fmt.Errorf("remote %s has no url: set os.hosted_objects_url, or write it into %s", r.name, r.path)
	}
	if err := sweepScratch(scratch); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(scratch, scratchPrefix)
	if err != nil {
		return fmt.Errorf("make a repository for looking up: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the next one does it
	if _, err := run.run(ctx, shortTimeout, "ostree", "--repo="+dir, "init", "--mode=bare-user-only"); err != nil {
		return err
	}
	config, err := os.OpenFile(filepath.Join(dir, "config"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("make a repository for looking up: %w", err)
	}
	lines := r.section("url", "gpg-verify", "gpg-verify-summary", "gpgkeypath", "sign-verify", "sign-verify-summary", "collection-id")
	_, err = fmt.Fprintf(config, "\n[%s]\nurl=%s\ngpg-verify=false\n%s\n", r.head(), url, strings.Join(lines, "\n"))
	if cerr := config.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("make a repository for looking up: %w", err)
	}
	_, err = run.run(ctx, lookupTimeout, "ostree", "--repo="+dir, "pull", "--commit-metadata-only", "--depth=0", r.name, commit)
	return err
}

const scratchPrefix = "flotta-os-lookup-"

// sweepScratch removes what a kill left behind.
func sweepScratch(scratch string) error {
	left, err := filepath.Glob(filepath.Join(scratch, scratchPrefix+"*"))
	if err != nil {
		return fmt.Errorf("sweep %s: %w", scratch, err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
	}
	return nil
}
