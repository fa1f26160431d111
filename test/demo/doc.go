// Command demo shows the main job on one machine, on real parts: from a manifest
// that is saved to a running container whose files travel both ways, and back
// through a changed manifest, a power cut and the end.
//
// Every step checks what it shows. With KEEP=1 everything is left running until
// it is interrupted.
package main
