"""The commands of `nomina`, one file each: parse, call one public function, print."""
