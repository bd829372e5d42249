"""`make bench`: everything that is measured, one after the other."""

from bench import concurrency, cores, gguf_header, overhead, quantize, transfer

overhead.main()
gguf_header.main()
transfer.main()
quantize.main()
cores.main()
concurrency.main()
