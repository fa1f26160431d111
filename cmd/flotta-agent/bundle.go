package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/project-flotta/flotta-agent/internal/agent"
	"github.com/project-flotta/flotta-agent/internal/bundle"
	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/doctor"
)

// packing are the settings of the support bundle.
type packing struct {
	asking
	stderr io.Writer
	output string
	mib    int64
}

func bundleCommand(env func(string) string, stdout, stderr io.Writer) *cobra.Command {
	p := packing{asking: asking{env: env, stdout: stdout}, stderr: stderr}
	cmd := p.command(&cobra.Command{
		Use:   "support-bundle",
		Short: "Pack what explains this device to somebody elsewhere, without secrets",
		Long: "Pack into one archive what explains this device to somebody elsewhere: status, doctor's findings, settings, what the\n" +
			"device was told, journals, units, containers, disks and networks. The agent need not run for that. Run it as root.\n\n" +
			"Secrets are taken out by where they are, by what they look like, and by their value, in whatever encoding. Names\n" +
			"of workloads, images, servers and addresses stay. A manifest.json says what is in the archive, and what is not.\n\n" +
			"The exit code is 0 when there is an archive, and 2 when there is none.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return unknown(p.run(cmd.Context())) },
	})
	cmd.Flags().StringVarP(&p.output, "output", "o", "", "file to write, which must not exist yet; - is the standard output (default flotta-support-<device>-<time>.tar.gz)")
	cmd.Flags().Int64Var(&p.mib, "max-mib", 20, "size of the archive in MiB, at most")
	return cmd
}

func (p *packing) run(ctx context.Context) error {
	if p.mib < 1 || p.mib > 1024 {
		return fmt.Errorf("max-mib %d: must be from 1 to 1024", p.mib)
	}
	device := agent.Examine(examined(p.env))
	now := time.Now().UTC()
	if p.output == "-" {
		_, err := p.pack(ctx, device, now, p.stdout)
		return err
	}
	name := cmp.Or(p.output, "flotta-support-"+fileName(cmp.Or(device.DeviceID(), "device"))+"-"+now.Format("20060102T150405Z")+".tar.gz")
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
	manifest, err := p.pack(ctx, device, now, file)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	_, err = fmt.Fprintf(p.stdout, "%s: %d files; %d could not be had, or not all of it: its manifest.json says why\n", name, len(manifest.Entries), manifest.Failed())
	return err
}

// fileName is a text as part of the name of a file.
func fileName(text string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", r) {
			return r
		}
		return '_'
	}, text)
}

func (p *packing) pack(ctx context.Context, device *agent.Examination, now time.Time, w io.Writer) (bundle.Manifest, error) {
	items := []bundle.Item{
		{Name: "status.json", Kind: bundle.KindDocument, Collect: p.told},
		{Name: "status.txt", Collect: p.shown},
		{Name: "doctor.json", Kind: bundle.KindDocument, Collect: func(ctx context.Context) ([]byte, error) {
			return json.Marshal(examine(ctx, device))
		}},
		{Name: "metrics.txt", Collect: func(ctx context.Context) ([]byte, error) { return console.FetchMetrics(ctx, p.socket) }},
	}
	return bundle.Write(ctx, w, bundle.Config{
		Items:    append(items, device.Items(doctor.ThisHost())...),
		Secrets:  device.Secrets(),
		About:    map[string]string{"version": version, "device": device.DeviceID()},
		MaxBytes: p.mib << 20,
		Now:      now,
	})
}

// told is what the agent says, if it runs.
func (p *packing) told(ctx context.Context) ([]byte, error) {
	d, err := console.Fetch(ctx, p.socket)
	if err != nil {
		return nil, err
	}
	return json.Marshal(d)
}

// shown is the same for a person.
func (p *packing) shown(ctx context.Context) ([]byte, error) {
	d, err := console.Fetch(ctx, p.socket)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = console.Show(&b, d, console.FormatTable, time.Now(), false)
	return b.Bytes(), err
}
