import { Button } from "@mantine/core";

interface OfferedProps {
  /** Why it cannot be pressed; empty where it can. */
  whyNot: string;
  onClick: () => void;
  children: string;
  /** Its name for who cannot see what stands around it. */
  label?: string;
}

/** A button that says why it cannot be pressed. */
export function Offered({ whyNot, onClick, children, label }: OfferedProps) {
  return (
    <Button maw="100%" size="compact-sm" variant="default" aria-disabled={whyNot !== ""} data-disabled={whyNot !== "" || undefined} aria-label={label}
      title={whyNot || undefined} onClick={() => whyNot === "" && onClick()} aria-description={whyNot || undefined}>
      {children}
    </Button>
  );
}
