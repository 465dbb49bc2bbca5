// The program around a package with `Handler`.

package main

import (
	"log"

	handler "MODULE"
)

func main() {
	// The platform notes the time of each line.
	log.SetFlags(0)
	listen(handler.Handler)
}
